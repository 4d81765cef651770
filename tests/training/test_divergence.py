"""Invalid input raises a clear error and keeps the last good state."""

import json
import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pairs import callables as kinds
from torch import nn

import pvae
from pvae._seeds import named_seed
from pvae.checking import PairError
from pvae.training.divergence import DivergedError


def fit(model, guide, data, **options):
    return pvae.fit(model, guide, data, **{"progress": False, "epochs": 1} | options)


def empty(x):
    pyro.param("unused", torch.zeros(()))


# Invalid pairs


def test_missing_guide_site_raises():
    message = "guide has no site 'z'; the model samples ['z'], the guide []: add one to the guide"
    with pytest.raises(PairError, match=re.escape(message)) as caught:
        fit(lg.model, empty, lg.draw(10))
    (finding,) = caught.value.findings
    assert finding.severity == "error"


def test_unknown_guide_site_raises():
    def guide(x):
        lg.posterior(x)
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match="guide samples 'w', but the model has no such site"):
        fit(lg.model, guide, lg.draw(10))

    def observed(x):
        lg.posterior(x)
        pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match="guide samples 'x', but the model observes it"):
        fit(lg.model, observed, lg.draw(10))


def test_auxiliary_site():
    def guide(x):
        shift = pyro.param("shift", torch.zeros(()))
        pyro.sample("w", dist.Normal(shift, 1.0), infer={"is_auxiliary": True})
        lg.posterior(x)

    assert fit(lg.model, guide, lg.draw(10)).history


def bernoulli(x):
    logits = pyro.param("logits", torch.zeros(x.shape[1:]))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def test_grey_levels_under_bernoulli_raise():
    x = torch.tensor([[0.0, 1.0], [0.25, 1.0]])
    with pytest.raises(PairError) as caught:
        fit(bernoulli, empty, x)
    message = str(caught.value)
    assert "site 'x' observes values outside the support of Bernoulli, such as 0.25" in message
    for alternative in ("binarize=", "continuous_bernoulli", "discretized_logistic", "gaussian"):
        assert alternative in message


def test_grey_datum_in_later_batch_raises():
    x = torch.zeros(64, 2)
    x[63] = 0.5
    with pytest.raises(ValueError, match="support"):
        fit(bernoulli, lambda x: None, x, batch_size=4)


@pytest.mark.parametrize("engine", ["auto", "recorded", "captured"])
def test_grey_datum_in_replay_raises(engine):
    x = torch.zeros(1200, 2)
    x[373] = 0.5  # in batch 200, when steps are replayed
    logits = torch.nn.Parameter(torch.ones(2))

    def model(x):
        known = pyro.param("logits", logits)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=known).to_event(1), obs=x)

    refused = (
        r"'x' observes values outside the support of Bernoulli \(Boolean\(\)\) in batch \d+ of"
    )
    with pytest.raises(PairError, match=refused):
        fit(model, lambda x: None, x, batch_size=4, engine=engine)
    assert torch.equal(logits.detach(), torch.ones(2))


def test_data_of_another_shape_raise():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    with pytest.raises(PairError, match=r"observes data of shape \(10, 5\), but its distribution"):
        fit(model, empty, lg.draw(10))


def test_failing_program_raises():
    net = nn.Linear(3, 2)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x), 1.0).to_event(1), obs=x)

    line = model.__code__.co_firstlineno + 3
    pattern = rf"test_divergence.py:{line}: the pair fails on a batch of \(10, 5\) torch.float32: "
    with pytest.raises(ValueError, match=pattern):
        fit(model, empty, lg.draw(10))


def test_pair_without_parameters_raises():
    with pytest.raises(ValueError, match="neither program registers a parameter"):
        fit(lg.model, lg.posterior, lg.draw(10))


# Invalid data


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_data_raise(value):
    x = lg.draw(20)
    x[7, 2] = x[11, 0] = value
    with pytest.raises(ValueError, match=r"7.*11"):
        fit(lg.model, lg.posterior, x)


def test_empty_data_raise():
    with pytest.raises(ValueError, match=r"no rows|empty"):
        fit(lg.model, lg.posterior, torch.zeros(0, 5))


def test_batch_size_above_data_raises():
    with pytest.raises(ValueError, match="batch_size 50 is above the 20 rows"):
        fit(lg.model, lg.posterior, lg.draw(20), batch_size=50)


# Invalid options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": pyro.infer.Trace_ELBO}, TypeError, r"give Trace_ELBO\(\)"),
        ({"objective": 0.1}, TypeError, "not an instance of pyro.infer.ELBO"),
        ({"objective": "iwea"}, ValueError, "nearest: 'iwae'"),
        ({"optimizer": 0.1}, TypeError, "optimizer is a float"),
        ({"optimizer": lambda p: None}, TypeError, "returned a NoneType"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "LBFGS evaluates the loss several times"),
        (
            {"optimizer": torch.optim.Adam, "learning_rate": 0.1},
            ValueError,
            "give it to your optimizer",
        ),
        (
            {"optimizer": pyro.optim.Adam({}), "scheduler": lambda o: o},
            ValueError,
            "one of Pyro's schedulers",
        ),
        ({"engine": "fast"}, ValueError, "unknown engine 'fast'"),
        ({"patience": 3}, ValueError, "give valid="),
        ({"clip_norm": 0.0}, ValueError, "clip_norm is 0.0: give a number above 0"),
        (
            {"warmup": 2, "objective": pyro.infer.RenyiELBO(num_particles=2)},
            ValueError,
            "RenyiELBO is not a sum over sites",
        ),
        ({"device": "cuda:9"}, ValueError, "device 'cuda:9' does not exist"),
        ({"device": "gpu"}, ValueError, "device 'gpu' does not exist"),
        ({"resume": True}, ValueError, "give out="),
        ({"tensorboard": True}, ValueError, "give out="),
    ],
)
def test_invalid_options_raise(options, error, message):
    with pytest.raises(error, match=message):
        fit(*kinds.make("functions", 0), kinds.toy_data(), **options)


# A loss that is NaN or infinite


def explosive(after):
    """A pair whose guide has a NaN scale from the given call on."""
    calls = []
    loc = nn.Linear(5, 2)

    def guide(x):
        pyro.module("loc", loc)
        calls.append(1)
        scale = torch.ones(()) if len(calls) <= after else torch.full((), float("nan"))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc(x), scale).to_event(1))

    return guide, loc


def test_diverged_loss_raises(tmp_path):
    x = lg.draw(64)
    weight = nn.Linear(2, 5)

    def model(x):
        pyro.module("weight", weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(weight(z), 0.5).to_event(1), obs=x)

    guide = pvae.guides.MeanField(x_shape=(5,), z_dim=2, hidden=())
    run = tmp_path / "run"
    good = []
    with pytest.raises(DivergedError) as caught:
        fit(
            model, guide, x, batch_size=16, epochs=50, out=run,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-4),
            scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(
                o, lambda epoch: 1.0 if epoch < 3 else 1e12
            ),
            callback=lambda so_far: good.append(weight.weight.detach().clone()),
        )  # fmt: skip
    assert len(good) >= 3
    torch.testing.assert_close(weight.weight.detach(), good[-1])
    error = caught.value
    assert error.step // 4 == len(good)
    assert error.site in ("x", "z")
    assert f"from step {error.step} on, in epoch {len(good) + 1}" in str(error)
    assert f"the first site to fail is '{error.site}'" in str(error)
    assert str(run / "checkpoint.pt") in str(error)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(good)
    loaded = pvae.load(run, model=model, guide=guide)
    assert torch.isfinite(torch.tensor(pvae.elbo(loaded.model, loaded.guide, x).mean))


def test_first_broken_site_found_again():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Normal(z, (z - loc).square()))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pyro.param("z_loc", torch.ones(())).expand(len(x))))
            pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0))

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.0)

    # The scale of y changes from 1 to 0: only running the programs again identifies the site.
    def collapse(so_far):
        so_far.model.pair.parameters()["loc"].data.fill_(1.0)

    with pytest.raises((DivergedError, ValueError)) as caught:
        fit(model, guide, torch.zeros(8), epochs=3, optimizer=sgd, callback=collapse)
    assert "'y'" in str(caught.value)


@pytest.mark.parametrize(("out", "error"), [("exp", pvae.DivergedError), ("plain", pvae.PairError)])
def test_a_scale_that_becomes_0_has_diverged_and_a_negative_one_is_a_mistake(out, error):
    scale = nn.Linear(1, 1)
    torch.nn.init.constant_(scale.weight, 0.0)
    torch.nn.init.constant_(scale.bias, 0.0 if out == "exp" else 0.1)

    def model(x):
        pyro.module("scale", scale)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            value = scale(torch.ones(1))
            value = value.exp() if out == "exp" else value
            pyro.sample("x", dist.Normal(0.0 * z, value), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    rate = 1e3 if out == "exp" else 1.0
    optimizer = partial(torch.optim.SGD, lr=rate)
    with pytest.raises(error, match=r"diverged|Expected parameter scale"):
        pvae.fit(
            model, guide, 0.01 * torch.ones(64), batch_size=16, optimizer=optimizer, progress=False
        )


def test_rollback_goes_on_with_a_lower_rate(tmp_path):
    pair = (kinds.make("functions", 0), kinds.make("functions", 0))
    options = {"epochs": 3, "learning_rate": 1e30, "out": tmp_path / "run"}
    with pytest.raises(DivergedError):
        fit(*pair[0], kinds.toy_data(), **options)
    low = {"learning_rate": 1e3, "on_nan": "rollback", "overwrite": True}
    model, guide = diverging_above(30.0)
    found = fit(model, guide, torch.ones(64), **{**options, **low})
    assert len(found.history) == 3
    assert found.history[-1]["learning_rate"] == pytest.approx(1e3 / 2**6)
    notes = [note for note in found.notes if "went back to the end of epoch 0" in note]
    assert len(notes) == 6
    assert notes[-1].endswith("and on with a learning rate of 15.625")
    model, guide = diverging_above(0.0)
    with pytest.raises(DivergedError):
        fit(model, guide, torch.ones(64), **{**options, **low})
    with pytest.raises(ValueError, match="unknown on_nan 'skp': give one of"):
        fit(model, guide, torch.ones(64), on_nan="skp")


def diverging_above(rate):
    """A pair whose loss is NaN once its parameter has moved by more than a step of such a rate."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        bad = torch.where(loc.abs() > rate, float("nan"), 0.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((loc + bad).expand(len(x)), 1.0))

    return model, guide


def overflowing(at):
    """A pair whose loss is not finite for the rows whose first number is 7, in one of its parts."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            loc = z
            if at == "operation":
                loc = loc + 0 * (x[:, 0] - 7).abs().log()
            pyro.sample("x", dist.Normal(loc[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        if at == "derivative":
            loc = loc + 0 * torch.where(x.max() == 7, loc - loc.detach(), 1.0).sqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    return model, guide


def test_rows_and_operation_are_named():
    """Rows by their number in the data, and the line of the program."""
    x = kinds.toy_data()
    order = torch.randperm(
        96, generator=torch.Generator().manual_seed(named_seed(0, "shuffling", 0))
    )
    rows = order[60:63].sort().values.tolist()  # in the second batch
    x[rows, 0] = 7.0
    with pytest.raises(DivergedError) as failed:
        pvae.fit(*overflowing("operation"), x, batch_size=48, epochs=2, progress=False)
    said = str(failed.value)
    assert "the first site to fail is 'x'" in said
    assert f"in rows {', '.join(map(str, rows))} of the data" in said
    line = overflowing.__code__.co_firstlineno + 8
    assert f"output is not finite is `log`, {__file__}:{line}." in said


@pytest.mark.parametrize("batch_size", [96, 8])
def test_a_derivative_that_is_not_finite_is_named(batch_size):
    """The step whose gradient spoils a parameter is before the one whose loss is NaN."""
    x = kinds.toy_data()
    x[5, 0] = 7.0
    with pytest.raises(DivergedError) as failed:
        pvae.fit(*overflowing("derivative"), x, batch_size=batch_size, epochs=2, progress=False)
    line = overflowing.__code__.co_firstlineno + 14
    assert f"is the derivative of `sqrt`, {__file__}:{line}." in str(failed.value)
    assert "in the guide: the loc of its Normal is not finite" in str(failed.value)


def test_loaders_name_rows_of_their_batch():
    x = kinds.toy_data()
    x[11, 0] = 7.0
    loader = torch.utils.data.DataLoader(x, batch_size=8)
    with pytest.raises(DivergedError, match="in row 3 of its batch"):
        pvae.fit(*overflowing("operation"), loader, epochs=2, progress=False)
