"""Adam's kernel, called directly, matches torch's Adam."""

import pyro
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import BATCHES
from pyro.infer import Trace_ELBO

import pvae
from pvae.engine.optimizers import TorchOptim
from pvae.engine.step import Step
from pvae.engine.updates import Updates

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


def update(updates, trained, gradients, divisor):
    updates(Step((0.0,), False, trained, trained, list(gradients)), divisor)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_matches_torch(kind, options):
    own, theirs = parameters(), parameters()
    groups = [{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:]}]
    optimizer = kind(groups, fused=True, **options)
    groups = [{"params": own[:1], "lr": 0.1}, {"params": own[1:]}]
    optim = TorchOptim(kind(groups, fused=True, **options))
    updates = Updates(optim, replace=False)
    direct = 0
    for number in range(6):
        rate = 1e-2 / (number + 1)
        optim.optimizer.param_groups[1]["lr"] = optimizer.param_groups[1]["lr"] = rate
        update(updates, own, gradients(number), torch.tensor(4.0))
        direct += updates._fused.complete
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
    updates = Updates(TorchOptim(torch.optim.Adam(own[:2], fused=True)), replace=False)
    for number in range(3):
        update(updates, own, gradients(number), None)
    assert torch.equal(own[2], before)
    assert updates._fused.complete


def test_gradients_of_ones_own_are_followed():
    own = parameters()
    before = own[2].detach().clone()
    updates = Updates(TorchOptim(torch.optim.Adam(own)), replace=True)
    for number in range(4):
        own[2].grad = torch.ones(1) if number == 3 else None
        update(updates, own[:2], gradients(number)[:2], None)
        assert torch.equal(own[2], before) == (number < 3)
    assert own[2].grad is None


def test_optimizer_hook():
    own, calls = parameters(), []
    optimizer = torch.optim.Adam(own, fused=True)
    updates = Updates(TorchOptim(optimizer), replace=False)
    for number in range(4):
        if number == 2:
            optimizer.register_step_post_hook(lambda *given: calls.append(given))
        update(updates, own, gradients(number), None)
    assert len(calls) == 2


# Optimizers in other forms, whose steps the kernel takes where steps are replayed

FORMS = {
    "torch Adam": lambda: lambda p: torch.optim.Adam(p, lr=0.01),
    "torch AdamW": lambda: lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adam": lambda: pyro.optim.Adam({"lr": 0.01}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.01, "amsgrad": True}),
    "several rates": lambda: pyro.optim.Adam(lambda name: {"lr": 0.01 if "loc" in name else 0.02}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam(
        {"lr": 0.01, "lrd": 0.9, "clip_norm": 0.5, "weight_decay": 0.01, "eps": 1e-2}
    ),
}  # fmt: skip


def trained(make, engine, steps=12):
    """Parameters after steps, the SVI, and the state of its optimizer."""
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    model, guide = kinds.make("functions", 0)
    svi = pvae.SVI(model, guide, make(), Trace_ELBO(), engine=engine)
    for number in range(steps):
        svi.step(BATCHES[number % 3])
    store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
    return store, svi, svi.optim.get_state()


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_other_forms_of_adam(make):
    wanted, theirs, one = trained(make, "eager")
    got, own, other = trained(make, "recorded")
    assert theirs.updates._fused is None
    assert own.updates._fused is not None
    assert own.updates._fused.complete
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)
    assert torch.utils._pytree.tree_structure(one) == torch.utils._pytree.tree_structure(other)
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (one, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["Adam", "ClippedAdam", "torch Adam"])
def test_state_of_other_forms_is_loaded(name):
    wanted, _, _ = trained(FORMS[name], "recorded", steps=12)
    _, first, _ = trained(FORMS[name], "recorded", steps=6)
    store, generator = pyro.get_param_store().get_state(), torch.get_rng_state()
    model, guide = first.model, first.guide
    pyro.get_param_store().set_state(store)
    second = pvae.SVI(model, guide, FORMS[name](), Trace_ELBO(), engine="recorded")
    if name == "torch Adam":
        second.optim.prepare(first.optim.optimizer.param_groups[0]["params"])
    second.optim.set_state(first.optim.get_state())
    torch.set_rng_state(generator)
    for number in range(6, 12):
        second.step(BATCHES[number % 3])
    for key, value in pyro.get_param_store()._params.items():
        assert torch.equal(value.detach(), wanted[key])


UNTOUCHED = {
    "clipped by Pyro": lambda: pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 1.0}),
    "a schedule of Pyro": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    ),
    "centered": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "centered_variance": True}),
    "foreach": lambda: lambda p: torch.optim.Adam(p, foreach=True),
    "no Adam": lambda: lambda p: torch.optim.SGD(p, lr=1e-4),
}  # fmt: skip


@pytest.mark.parametrize("make", UNTOUCHED.values(), ids=UNTOUCHED)
def test_optimizers_that_take_their_own_steps(make):
    wanted, _, _ = trained(make, "eager")
    got, own, _ = trained(make, "recorded")
    assert own.updates._fused is None
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)


def test_averages_of_rare_gradients_become_zero():
    results = []
    for clears in (True, False):
        torch.manual_seed(0)
        own = [torch.nn.Parameter(torch.randn(50))]
        optimizer = torch.optim.Adam(own, fused=True)
        updates = Updates(TorchOptim(optimizer), replace=False)
        smallest = 1.0
        for number in range(1500):
            gradient = torch.zeros(50)
            gradient[:25] = torch.randn(25)
            gradient[25:] += float(number == 0)
            if clears:
                update(updates, own, [gradient], None)
            else:
                own[0].grad = gradient
                optimizer.step()
            average = optimizer.state[own[0]]["exp_avg"].abs()
            smallest = min(smallest, average[average > 0].min().item())
        results.append((own[0].detach().clone(), smallest))
    (cleared, least), (plain, denormal) = results
    assert torch.equal(cleared, plain)
    assert denormal < torch.finfo(torch.float32).tiny <= least
