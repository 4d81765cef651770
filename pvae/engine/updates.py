"""How a step's gradients update the parameters."""

import pyro
from pyro.optim import PyroOptim
from pyro.optim.optim import _load_state_dict
from torch import Tensor
from torch.optim import Optimizer

from pvae.engine.fused_adam import FusedAdam, is_adam, is_fused
from pvae.engine.optimizers import TorchOptim, set_gradients
from pvae.engine.step import Step

__all__ = ["Updates"]


class Updates:
    """Takes an optimizer's steps, by the fused kernel of Adam where they are Adam's.

    Args:
        optim: the optimizer.
        replace: whether the kernel may take the place of Adams that are not in its form, whose
            results differ from its own by rounding.
    """

    def __init__(self, optim: PyroOptim, *, replace: bool) -> None:
        self.optim, self.replace = optim, replace
        self._fused: FusedAdam | None = None

    def fused_adam(self, trained: list[Tensor]) -> FusedAdam | None:
        """What updates these parameters as the optimizer does; None if that is no Adam.

        Nor is there one before the first step, which creates the optimizer's state.
        """
        optimizers = self._optimizers(trained)
        if not optimizers:
            return None
        if self._fused is None or not self._fused.serves(optimizers, trained):
            self._fused = FusedAdam(optimizers, trained)
        return self._fused if self._fused.complete else None

    def _optimizers(self, trained: list[Tensor]) -> list[Optimizer]:
        """The optimizers of these parameters, if the kernel can take their steps."""
        if isinstance(self.optim, TorchOptim):
            found = [] if self.optim.optimizer is None else [self.optim.optimizer]
        elif type(self.optim) is PyroOptim and not any(map(self.optim.grad_clip.get, trained)):
            known = self.optim.optim_objs
            found = [known[p] for p in trained] if all(p in known for p in trained) else []
        else:
            return []
        fit = all(is_fused(o) or (self.replace and is_adam(o)) for o in found)
        return found if fit else []

    def _all_served(self, done: Step) -> bool:
        """Whether no optimizer has something to do for a parameter without a gradient."""
        return isinstance(self.optim, TorchOptim) or len(done.params) == len(done.trained)

    def _load_waiting(self, params: list[Tensor]) -> None:
        """Make Pyro's optimizers whose state was loaded, as Pyro would before their next step."""
        waiting = self.optim._state_waiting_to_be_consumed
        if not waiting:
            return
        for parameter in params:
            name = pyro.get_param_store().param_name(parameter)
            if name in waiting and parameter not in self.optim.optim_objs:
                optimizer = self.optim._get_optim(parameter)
                self.optim.optim_objs[parameter] = optimizer
                self.optim.grad_clip[parameter] = self.optim._get_grad_clip(parameter)  # type: ignore[arg-type]
                _load_state_dict(optimizer, waiting.pop(name))

    def __call__(self, done: Step, divisor: Tensor | None) -> None:
        """Update the parameters along a step's gradients, and clear these.

        Args:
            done: the step; its gradients may be overwritten.
            divisor: of the gradients, shape (), or None for 1.
        """
        trained, gradients = done.trained, done.gradients
        if isinstance(self.optim, TorchOptim):
            self.optim.prepare(trained)
        else:
            self._load_waiting(done.params)
        fused = self.fused_adam(trained) if self._all_served(done) else None
        if fused is not None and all(other.grad is None for other in fused.others):
            fused.step(gradients, divisor)
            for parameter in trained:
                parameter.grad = None
            return
        set_gradients(trained, gradients, divisor)
        if isinstance(self.optim, TorchOptim):
            self.optim(trained)
        else:
            self.optim(done.params)
            pyro.infer.util.zero_grads(done.params)
