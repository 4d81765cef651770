"""Each wrong pair has a finding with its line; correct pairs have none."""

import inspect
import os
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs import (  # noqa: F401
    invalid_dependence,
    invalid_distributions,
    invalid_plates,
    invalid_sites,
)
from pairs.invalid import WRONG, Pair, X, data, normal
from pairs.invalid_parameters import batch_norm, frozen_network_in_a_pyro_module
from pairs.valid import RIGHT
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import nn

import pvae
from pvae.checking import PairError
from pvae.pair.discovery import reach


def findings(model, guide, batch, objective=None):
    batch = batch if isinstance(batch, tuple) else (batch,)
    try:
        return list(pvae.check(model, guide, *batch, objective=objective).findings)
    except PairError as error:
        return error.findings


def marked_line(of, text="# here"):
    """File and line of a text in the source of a function or class."""
    lines, first = inspect.getsourcelines(of)
    (number, *_) = (i for i, line in enumerate(lines) if text in line)
    return inspect.getsourcefile(of), first + number


@pytest.mark.parametrize(
    ("make", "severity", "message"), WRONG, ids=lambda v: getattr(v, "__name__", "")
)
def test_wrong_pairs(make, severity, message):
    torch.manual_seed(0)
    model, guide, batch, *more = make()
    given = more[0] if more else {}
    found = findings(model, guide, batch, given.get("objective"))
    told = [str(finding) for finding in found]
    matching = [f for f in found if re.search(message, f.message, re.DOTALL)]
    assert len(matching) == 1, told
    assert matching[0].severity == severity
    assert [f for f in found if f.severity == "error"] == (
        matching if severity == "error" else []
    ), told
    where = given.get("line", (make,))
    if where is not None:  # other findings name no line
        assert (matching[0].file, matching[0].line) == marked_line(*where), told


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_valid_pairs(make):
    torch.manual_seed(0)
    model, guide, batch, *more = make()
    assert findings(model, guide, batch, **(more[0] if more else {})) == []


def test_state_restored():
    model, guide = kinds.make("functions", 0)
    networks = [network for _, network in reach({"model": model, "guide": guide}, nn.Module)]
    x = kinds.toy_data()[:20]
    pyro.param("scale", torch.tensor(3.0))
    store = dict(pyro.get_param_store().items())
    state = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    networks[1].eval()  # trained in train mode, despite the eval mode before
    modes = [part.training for network in networks for part in network.modules()]
    assert True in modes
    assert False in modes
    weight = next(networks[0].parameters())
    weight.grad = torch.ones_like(weight)
    generator = torch.get_rng_state()
    pvae.check(model, guide, x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert {k: v.item() for k, v in pyro.get_param_store().items()} == {"scale": 3.0}
    assert pyro.get_param_store()["scale"] is store["scale"]
    assert [part.training for network in networks for part in network.modules()] == modes
    for network, before in zip(networks, state, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name
    others = [p for network in networks for p in network.parameters() if p is not weight]
    assert all(p.grad is None for p in others)


def test_frozen_parameter_stays_frozen():
    model, guide, x, _ = frozen_network_in_a_pyro_module()
    with pytest.raises(PairError):
        pvae.check(model, guide, x)
    assert not any(p.requires_grad for p in model.decoder.parameters())


def test_report_text():
    model, guide = kinds.make("functions", 0)
    report = pvae.check(model, guide, kinds.toy_data()[:20])
    head, *rows, found = str(report).splitlines()
    assert head.split() == ["site", "program", "plates", "batch", "event", "distribution"]
    assert [row.split()[:4] for row in rows] == [
        ["z", "guide", "data", "20"],
        ["z", "model", "data", "20"],
        ["x", "model", "data", "20"],
    ]
    assert re.match(r"warning: \S*callables.py:\d+: .*BatchNorm1d", found)
    x = report.sites[-1]
    assert (x.batch_shape, x.event_shape, x.distribution, x.observed) == (
        (20,),
        (3,),
        "Normal",
        True,
    )


def test_zoo_pair_lines():
    model, guide = (
        pvae.models.VAE(x_shape=(4, 4), z_dim=2),
        pvae.guides.MeanField(x_shape=(4, 4), z_dim=2),
    )
    x = (torch.rand(10, 4, 4) > 0.5).float()
    assert findings(model, guide, x) == []
    (found,) = [f for f in findings(model, guide, x * 0.5) if f.severity == "error"]
    assert found.file.endswith("models/vae.py")


def test_fit_notes_contain_warnings():
    model, guide, x, *_ = batch_norm()
    trained = pvae.fit(model, guide, x, epochs=1, progress=False)
    assert any("BatchNorm1d" in note for note in trained.notes)


def test_invalid_batch_raises():
    with pytest.raises(TypeError, match="item 0 of data is of type float"):
        pvae.check(lambda x: None, lambda x: None, [1.0])


def test_unused_network_in_module():
    pair, other = Pair(), Pair()
    found = pvae.check(other.model, pair.guide, data()).findings
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert "'guide.decoder.0.weight'" in found[0].message
    assert "'model.encoder.0.weight'" in found[1].message


def test_program_that_counts_calls():
    """Its terms differ between calls with the same data."""
    pair, calls = Pair(), []

    def guide(x):
        calls.append(1)
        pair.guide(x + len(calls))

    assert findings(pair.model, guide, data()) == findings(pair.model, pair.guide, data())


def test_grey_levels_under_bernoulli():
    """As in Pyro's VAE example, which turns off the distribution's validation."""
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            probs = pair.decoder(z).sigmoid()
            pyro.sample("x", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    (found,) = pvae.check(model, pair.guide, data().sigmoid()).findings
    assert found.severity == "warning"
    assert "made with validate_args=False, so this may be intended" in found.message
    trained = pvae.fit(model, pair.guide, data().sigmoid(), epochs=2, progress=False)
    assert len(trained.history) == 2
    assert any("values outside the support of Bernoulli" in note for note in trained.notes)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal, AutoDelta])
def test_autoguide_over_local_sites(autoguide):
    def model(x):
        loc = pyro.param("loc", torch.zeros(6))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = autoguide(model)
    guide(data())
    assert {f.severity for f in findings(model, guide, data())} <= {"warning"}
    assert pvae.fit(model, guide, data(), epochs=1, progress=False).history


def test_straight_through_and_point_guides():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def straight_through(x):
        pyro.module("encoder", pair.encoder)
        logits = pair.encoder(x)[:, :2]
        with pyro.plate("data", len(x)):
            fn = dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=logits)
            pyro.sample("z", fn.to_event(1))

    def point(x):
        pyro.module("encoder", pair.encoder)
        soft = pair.encoder(x)[:, :2].sigmoid()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(soft + (soft.round() - soft).detach()).to_event(1))

    (found,) = findings(model, straight_through, data())
    assert found.severity == "warning"
    assert "discrete in the model only" in found.message
    assert findings(model, point, data()) == []


def test_model_without_observations():
    pair = Pair()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(2))

    found = findings(model, pair.guide, data())
    assert any("the model observes nothing" in finding.message for finding in found)


def test_empty_batch_and_missing_attribute():
    pair = Pair()
    with pytest.raises(ValueError, match="at least one row"):
        pvae.check(pair.model, pair.guide, data()[:0])
    with pytest.raises(PairError, match=r"test_checking.py:\d+: the pair fails .* 'nothing'"):
        pvae.check(pair.model, lambda x: x.nothing, data())


def zoo_pairs():
    """A model, a guide and data for each combination that fits, and for both kinds of network."""
    for network, shape in (("mlp", (6,)), ("conv", (8, 8))):
        for likelihood in sorted(set(pvae.likelihoods.names) - {"mixed"}):
            yield network, shape, likelihood


SEEDS = [range(4), pytest.param(range(4, 20), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", SEEDS, ids=["4", "16 more"])
@pytest.mark.parametrize(("network", "shape", "likelihood"), list(zoo_pairs()))
def test_zoo_has_no_findings(network, shape, likelihood, seeds):
    x = torch.rand(12, *shape).round()
    if likelihood in ("beta", "log_normal"):
        x = 0.05 + 0.9 * torch.rand(12, *shape)
    for seed in seeds:
        torch.manual_seed(seed)
        given = {"x_shape": shape, "network": network, "hidden": 8, "z_dim": 2}
        model = pvae.models.VAE(**given, likelihood=likelihood)
        families = ("MeanField", "FullRank", "LowRank", "Flow")
        guide = getattr(pvae.guides, families[seed % 4])(**given)
        assert findings(model, guide, x) == []


@pytest.mark.parametrize("seeds", SEEDS, ids=["4", "16 more"])
@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
def test_hierarchies_have_no_findings(latent, seeds):
    x = torch.rand(12, 6).round()
    for seed in seeds:
        torch.manual_seed(seed)
        model = pvae.models.HelmholtzMachine(x_shape=(6,), dims=(4, 3), latent=latent)
        guides = [pvae.guides.BottomUp(x_shape=(6,), dims=(4, 3), latent=latent)]
        if latent == "gaussian":
            guides.append(pvae.guides.Ladder(model=model))
        objective = pvae.objectives.VIMCO(4) if latent == "bernoulli" else None
        for guide in guides:
            assert findings(model, guide, x, objective) == []


def test_many_missing_sites_are_one_message():
    def model(x):
        for i in range(13):
            pyro.sample(f"w{i}", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.new_zeros(X), 1.0).to_event(1), obs=x)

    (found,) = findings(model, lambda x: None, data())
    assert "guide has no site ['w0', 'w1', 'w2', 'w3'] and 9 more" in found.message


def test_steps_of_a_sequence_are_one_line():
    def model(x):
        z = x.new_zeros(len(x))
        with pyro.plate("data", len(x)):
            for t in range(15):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t % X])

    def guide(x):
        loc = pyro.param("loc", torch.zeros(15))
        with pyro.plate("data", len(x)):
            for t in range(15):
                pyro.sample(f"z{t}", dist.Normal(loc[t] + x[:, 0], 1.0))

    lines = str(pvae.check(model, guide, data())).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("z0 ... z14 (15)  guide")
    assert lines[3].startswith("x0 ... x14 (15)  model")


def test_file_beside_the_package_is_the_users():
    from pvae.pair import locations

    package = locations._OWN.removesuffix(os.sep)
    assert locations._is_foreign(f"{package}{os.sep}svi.py")
    assert not locations._is_foreign(f"{package}-experiments{os.sep}pair.py")


def test_forgotten_labels():
    def program(x, y):
        pass

    with pytest.raises(PairError, match="labels=True"):
        pvae.check(program, program, pvae.data.load("digits"))


@pytest.mark.parametrize("objective", [Trace_ELBO, pvae.objectives.IWAE])
def test_class_instead_of_an_objective(objective):
    pair = Pair()
    name = objective.__name__
    message = rf"objective is the class {name}: give {name}\(\), an instance"
    for call in (pvae.check, pvae.fit):
        with pytest.raises(TypeError, match=message):
            call(pair.model, pair.guide, data(), objective=objective)
    with pytest.raises(TypeError, match=message):
        pvae.SVI(pair.model, pair.guide, torch.optim.Adam, objective)
