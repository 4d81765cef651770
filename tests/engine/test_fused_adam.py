"""Adam's kernel, called directly, matches torch's Adam."""

import pytest
import torch

from pvae.engine.optimizers import TorchOptim

OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True, "betas": (0.8, 0.95), "eps": 1e-3},
}


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n)) for n in (3, 5, 1)]


def gradients(number):
    torch.manual_seed(number)
    return [torch.randn(n) for n in (3, 5, 1)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_matches_torch(kind, options):
    own, theirs = parameters(), parameters()
    groups = [{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:]}]
    optimizer = kind(groups, fused=True, **options)
    groups = [{"params": own[:1], "lr": 0.1}, {"params": own[1:]}]
    optim = TorchOptim(kind(groups, fused=True, **options))
    direct = 0
    for number in range(6):
        rate = 1e-2 / (number + 1)
        optim.optimizer.param_groups[1]["lr"] = optimizer.param_groups[1]["lr"] = rate
        optim.step_along(own, gradients(number), torch.tensor(4.0))
        direct += optim._fused.complete
        for parameter, gradient in zip(theirs, gradients(number), strict=True):
            parameter.grad = gradient / 4.0
        optimizer.step()
        if number == 3:  # loading replaces the optimizer's state
            state = optim.optimizer.state_dict()
            optim.optimizer.load_state_dict(
                {**state, "state": {k: dict(v) for k, v in state["state"].items()}}
            )
        for a, b in zip(own, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        assert all(parameter.grad is None for parameter in own)
    assert direct == 5


def test_other_parameters_unchanged():
    own = parameters()
    before = own[2].detach().clone()
    optim = TorchOptim(torch.optim.Adam(own[:2], fused=True))
    for number in range(3):
        optim.step_along(own, gradients(number), None)
    assert torch.equal(own[2], before)
    assert optim._fused.complete


def test_optimizer_hook():
    own, calls = parameters(), []
    optimizer = torch.optim.Adam(own, fused=True)
    optim = TorchOptim(optimizer)
    for number in range(4):
        if number == 2:
            optimizer.register_step_post_hook(lambda *given: calls.append(given))
        optim.step_along(own, gradients(number), None)
    assert len(calls) == 2
