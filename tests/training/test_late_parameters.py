"""Networks made in the program, and parameters that appear after the first step."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs.kinds import X, gaussian_guide, normal
from torch import nn

import pvae


def late(first=9, constraint=None):
    """A pair whose model makes a parameter after some steps, by a number that grows outside."""
    options = {} if constraint is None else {"constraint": constraint}
    state = {"epoch": 0}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            if state["epoch"] >= first:
                z = z * pyro.param("late", torch.full((2,), 0.5), **options)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model, gaussian_guide(), state


def train(folder, epochs, pair, **options):
    model, guide, state = pair
    return pvae.fit(
        model, guide, X, epochs=epochs, batch_size=12, out=folder, progress=False,
        callback=lambda fit: state.update(epoch=len(fit.history)), **options,
    )  # fmt: skip


CONSTRAINTS = [None, dist.constraints.positive, dist.constraints.interval(0.1, 3.0)]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=["real", "positive", "interval"])
@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD, pyro.optim.Adam({"lr": 0.01})])
def test_load_and_resume(tmp_path, constraint, optimizer):
    options = {"optimizer": optimizer} if optimizer is not None else {}
    if optimizer is torch.optim.SGD:
        options["optimizer"] = lambda params: torch.optim.SGD(params, lr=0.01)
    torch.manual_seed(0)
    pair = late(3, constraint)
    fit = train(tmp_path / "run", 6, pair, **options)
    (value,) = [p for name, p in fit.model.pair.parameters().items() if name == "late"]
    model, guide, state = late(3, constraint)
    state["epoch"] = 6
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide)
    assert torch.equal(loaded.model.pair.parameters()["late"], value)
    pair[2]["epoch"] = 6
    bounds = [pvae.elbo(f.model, f.guide, X, num_particles=10).mean for f in (fit, loaded)]
    assert bounds[0] == bounds[1]

    torch.manual_seed(0)
    whole = train(tmp_path / "whole", 8, late(3, constraint), **options)
    torch.manual_seed(0)
    again = late(3, constraint)
    again[2]["epoch"] = 6
    resumed = train(tmp_path / "run", 8, again, resume=True, **options)
    wanted = whole.model.pair.parameters()
    for name, parameter in resumed.model.pair.parameters().items():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-5, atol=1e-6)


def test_interrupted_before_it_appeared(tmp_path):
    """Ctrl-C in the epoch in which a parameter appears restores the state without it."""
    torch.manual_seed(0)
    model, guide, state = late(2)

    def interrupted(x):
        if state["epoch"] >= 2 and len(x) and "late" in pyro.get_param_store():
            raise KeyboardInterrupt
        return model(x)

    fit = train(tmp_path / "run", 5, (interrupted, guide, state))
    assert fit.stop_reason == "interrupted"
    assert len(fit.history) == 2
    assert "late" not in fit.model.pair.parameters()


def test_network_made_in_the_program(tmp_path):
    def make():
        def model(x):
            decoder = pyro.module("decoder", nn.Linear(2, 2), update_module_params=True)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(x))
                pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

        return model, gaussian_guide(), {}

    torch.manual_seed(0)
    fit = train(tmp_path / "run", 3, make())
    model, guide, _ = make()
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide)
    bounds = [pvae.elbo(f.model, f.guide, X, num_particles=10).mean for f in (fit, loaded)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)
    assert len(train(tmp_path / "run", 5, make(), resume=True).history) == 5
