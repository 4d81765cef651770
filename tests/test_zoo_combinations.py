"""Every model with every guide, prior and objective: it trains, or is refused with the reason."""

import pytest
import torch
from pairs.zoo import COMPATIBLE

import pvae
from pvae import zoo

MODELS = [entry.name for entry in zoo.entries("model")]
GUIDES = [entry.name for entry in zoo.entries("guide")]
PAIRS = [(model, guide) for model in MODELS for guide in GUIDES]
COLUMNS = [{"kind": "real"}, {"kind": "cat", "classes": 3}, {"kind": "count"}]
SMALL = {
    "z_dim": 3, "hidden": 16, "dims": (4, 2), "classes": 3, "transition": 8, "rnn": 8, "rows": 64,
    "likelihood": "bernoulli", "columns": COLUMNS,
}  # fmt: skip


def data_of(model):
    """Data that suit a model, of 64 rows: two kinds of binary vectors, sequences, or a table."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    kind = torch.arange(64) % 2
    if model == "dmm":
        on = torch.where(kind[:, None, None] == 0, 0.9, 0.1)
        return (draw(64, 5, 3) < on).float(), torch.randint(1, 6, (64,), generator=generator)
    if model == "tabular":
        return (torch.stack([draw(64) + 3 * kind, 1.0 * kind, (draw(64) * 4).floor()], 1),)
    pattern = torch.tensor([[1.0, 1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1, 1, 0]])[kind]
    x = (draw(64, 8) < 0.1 + 0.8 * pattern).float()
    if model == "ssvae":
        return x, torch.where(torch.arange(64) < 20, kind, -1)
    return (x, kind) if model == "cvae" else (x,)


def build(model, guide, **options):
    torch.manual_seed(0)
    defaults = {**SMALL, "x_shape": tuple(data_of(model)[0].shape[1:])}
    return zoo.build(model, guide, options, defaults)


def build_and_check(model, guide, data):
    built = build(model, guide)
    pvae.check(built.model, built.guide, *data)


def test_the_table_names_the_zoo():
    assert set(COMPATIBLE) == set(MODELS)
    assert set().union(*COMPATIBLE.values()) == set(GUIDES)
    for model in MODELS:
        usual = zoo.usual(model)
        assert usual["guide"] in COMPATIBLE[model]
        assert usual["data"] in pvae.data.names


@pytest.mark.parametrize(("model", "guide"), [p for p in PAIRS if p[1] in COMPATIBLE[p[0]]])
def test_pair_trains(model, guide, tmp_path):
    data, built = data_of(model), build(model, guide)
    report = pvae.check(built.model, built.guide, *data)
    assert not report.findings, report
    optimizer = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    fit = pvae.fit(
        built.model, built.guide, data, epochs=30, batch_size=32, optimizer=optimizer,
        engine="recorded", out=tmp_path / "run", progress=False,
    )  # fmt: skip
    losses = [row["train_loss"] for row in fit.history]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert "replayed" in fit.engine
    assert not [note for note in fit.notes if "point mass" not in note]
    other = build(model, guide)
    again = pvae.load(tmp_path / "run", model=other.model, guide=other.guide)
    saved, loaded = (dict(f.model.pair.named_parameters()) for f in (fit, again))
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


@pytest.mark.parametrize("model", MODELS)
def test_other_pairs_are_refused_with_the_reason(model):
    data = data_of(model)
    for guide in sorted(set(GUIDES) - COMPATIBLE[model]):
        with pytest.raises((ValueError, TypeError)) as caught:
            build_and_check(model, guide, data)
        assert len(str(caught.value)) > 30, guide


@pytest.mark.parametrize("prior", pvae.priors.names)
@pytest.mark.parametrize("guide", ["mean_field", "full_rank", "low_rank", "flow"])
def test_prior_with_every_guide(prior, guide):
    data, built = data_of("vae"), build("vae", guide, prior=prior, components=3)
    assert not pvae.check(built.model, built.guide, *data).findings
    fit = pvae.fit(
        built.model, built.guide, data, epochs=8, batch_size=32, learning_rate=0.01,
        engine="recorded", progress=False,
    )  # fmt: skip
    assert fit.history[-1]["train_loss"] < fit.history[0]["train_loss"]
    assert "replayed" in fit.engine
    bound = pvae.elbo(fit.model, fit.guide, data, 20)
    assert pvae.log_likelihood(fit.model, fit.guide, data, 100).mean > bound.mean - bound.mc_error


@pytest.mark.parametrize("objective", pvae.objectives.names)
@pytest.mark.parametrize(("model", "guide"), [(m, zoo.usual(m)["guide"]) for m in MODELS])
def test_objective_trains_or_is_refused(objective, model, guide):
    data, built = data_of(model), build(model, guide)
    several = ":num_particles=2" if objective in ("vimco", "iwae", "dreg", "RenyiELBO") else ""
    said = ""
    try:
        fit = pvae.fit(
            built.model, built.guide, data, epochs=2, objective=objective + several,
            progress=False, engine="eager",
        )  # fmt: skip
    except (ValueError, pvae.DivergedError) as error:  # TraceTMC_ELBO: labels have log q = -1e4
        said = str(error)
    if said:
        assert len(said) > 40
        return
    assert all(torch.isfinite(torch.tensor(row["train_loss"])) for row in fit.history)
