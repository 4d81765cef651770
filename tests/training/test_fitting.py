import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pairs import callables as kinds
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn

import pvae
from pvae._seeds import named_seed


def fit(model, guide, data, **options):
    options = {"progress": False, "batch_size": min(50, len(data))} | options
    return pvae.fit(model, guide, data, **options)


# Closed-form results of probabilistic PCA


def test_decoder_reaches_maximum_likelihood():
    x = lg.draw(1000)
    decoder, encoder = nn.Linear(lg.Z, lg.X), nn.Linear(lg.X, lg.Z)

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        tril = pyro.param("tril", torch.eye(lg.Z), constraint=dist.constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(encoder(x), scale_tril=tril))

    trained = fit(
        model, guide, x, epochs=60, learning_rate=0.02,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60),
    )  # fmt: skip
    estimate = pvae.log_likelihood(trained.model, trained.guide, x, num_particles=500)
    assert estimate.mc_error < 0.01
    best = lg.best_evidence(x)
    assert best - 0.05 < estimate.mean < best + 4 * estimate.mc_error
    assert pvae.elbo(trained.model, trained.guide, x, 10).mean > best - 0.05


def test_full_rank_closes_mean_field_gap():
    x = lg.draw(500)
    gaps = {}
    for family in (pvae.guides.MeanField, pvae.guides.FullRank):
        torch.manual_seed(0)
        guide = family(x_shape=(lg.X,), z_dim=lg.Z, hidden=())
        schedule = {"scheduler": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 80)}
        trained = fit(lg.model, guide, x, epochs=80, learning_rate=0.03, **schedule)
        bound = pvae.elbo(trained.model, trained.guide, x, num_particles=100)
        assert bound.mc_error < 0.01
        gaps[family.__name__] = lg.evidence(x).mean().item() - bound.mean
    assert gaps["MeanField"] == pytest.approx(lg.MEAN_FIELD_GAP, abs=0.03)
    assert lg.MEAN_FIELD_GAP > 0.2
    assert abs(gaps["FullRank"]) < 0.03


# The training loop


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def test_step_matches_pyro():
    """Training by hand with Pyro's SVI and the same draws results in the same parameters."""
    x = kinds.toy_data()
    model, guide = kinds.make("functions", 0)
    trained = fit(model, guide, x, batch_size=96, epochs=3, optimizer=sgd(0.01 * 96), seed=4)
    fitted = trained.model.pair.state_dict()
    by_hand_model, by_hand_guide = kinds.make("functions", 0)
    source = pvae.data.batches(x, batch_size=96, device=torch.device("cpu"), seed=4)
    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(
            by_hand_model, by_hand_guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()
        )
        pyro.set_rng_seed(named_seed(4, "programs"))
        for epoch in range(3):
            for batch in source.epoch(epoch):
                svi.step(*batch)
        scale = pyro.get_param_store()._params["scale"].detach()
    torch.testing.assert_close(fitted["params"]["scale"], scale)


@pytest.mark.parametrize(
    "optimizer",
    [
        pyro.optim.Adam({"lr": 0.05}),
        pyro.optim.ClippedAdam({"lr": 0.05}),
        torch.optim.RMSprop,
        sgd(0.1),
    ],
)
def test_optimizers_train_and_resume(optimizer, tmp_path):
    x = kinds.toy_data()
    runs = {}
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for i, epochs in enumerate(stops):
            model, guide = kinds.make("functions", 0)
            make = optimizer
            if isinstance(optimizer, pyro.optim.PyroOptim):
                make = (
                    type(optimizer)(optimizer.pt_optim_constructor, optimizer.pt_optim_args)
                    if type(optimizer) is pyro.optim.PyroOptim
                    else optimizer
                )
                make.optim_objs.clear()
            runs[name] = fit(
                model, guide, x, epochs=epochs, optimizer=make, out=tmp_path / name, resume=i > 0
            )
    whole, parts = ([row["train_loss"] for row in runs[n].history] for n in ("whole", "parts"))
    assert whole == parts
    assert whole[-1] < whole[0]


def test_torch_optimizer_parameters():
    model, guide = kinds.make("methods", 0)
    both = model.__self__
    optimizer = torch.optim.SGD(both.encoder.parameters(), lr=0.1)
    before = both.decoder.weight.clone()
    trained = fit(model, guide, kinds.toy_data(), epochs=1, optimizer=optimizer)
    assert torch.equal(both.decoder.weight, before)
    assert "the optimizer was not given parameters ['decoder$$$weight'" in trained.notes[-1]


def test_schedules():
    x = kinds.toy_data()
    model, guide = kinds.make("functions", 0)
    halve = {"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)}
    trained = fit(model, guide, x, epochs=3, learning_rate=0.4, **halve)
    assert [row["learning_rate"] for row in trained.history] == [0.4, 0.2, 0.1]
    pyros = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.4}, "gamma": 0.5}
    )
    trained = fit(*kinds.make("functions", 0), x, epochs=3, optimizer=pyros)
    assert [row["learning_rate"] for row in trained.history] == [0.4, 0.2, 0.1]


def test_gradient_clipping():
    def model(x):
        a = pyro.param("a", torch.zeros(()))
        b = pyro.param("b", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(3 * a + 4 * b, 1.0), obs=x)

    x = torch.ones(10)  # the gradient is -(3, 4): norm 5
    trained = fit(model, lambda x: None, x, epochs=1, optimizer=sgd(1.0), clip_norm=0.5)
    values = {k: v.item() for k, v in trained.model.pair.parameters().items()}
    assert values == pytest.approx({"a": 0.3, "b": 0.4}, rel=1e-4)
    assert trained.history[0]["gradient_norm"] == pytest.approx(5.0)
    assert trained.history[0]["clipped"] == 1.0


@pytest.mark.parametrize(
    "objective", [TraceMeanField_ELBO(), RenyiELBO(num_particles=2), Trace_ELBO(num_particles=3)]
)
def test_pyro_objectives(objective):
    options = {"epochs": 20, "learning_rate": 0.02, "objective": objective}
    trained = fit(*kinds.make("methods", 0), kinds.toy_data(), **options)
    losses = [row["train_loss"] for row in trained.history]
    assert losses[-1] < losses[0] - 1


def test_enumerated_site():
    @config_enumerate
    def model(x):
        locs = pyro.param("locs", torch.tensor([-0.5, 0.5]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(locs[z], 0.3), obs=x)

    x = torch.cat([torch.full((20,), -2.0), torch.full((20,), 3.0)])
    options = {"objective": TraceEnum_ELBO(max_plate_nesting=1), "learning_rate": 0.1}
    trained = fit(model, lambda x: None, x, epochs=150, batch_size=40, **options)
    (locs,) = trained.model.pair.parameters().values()
    torch.testing.assert_close(locs.detach(), torch.tensor([-2.0, 3.0]), atol=0.1, rtol=0)


def test_early_stopping_keeps_best():
    x = kinds.toy_data()
    seen = []

    def watch(so_far):
        seen.append(pvae.elbo(so_far.model, so_far.guide, x[:30]).mean)

    trained = fit(
        *kinds.make("functions", 0), x[30:], valid=x[:30], patience=2, epochs=200,
        optimizer=sgd(0.3), batch_size=16, callback=watch,
    )  # fmt: skip
    assert trained.stop_reason == "early stopping"
    assert len(trained.history) == trained.best_epoch + 2
    best = max(range(len(seen)), key=seen.__getitem__)
    assert trained.best_epoch == best + 1
    assert pvae.elbo(trained.model, trained.guide, x[:30]).mean == seen[best]
    assert [row["valid_elbo"] for row in trained.history] == seen


def test_callback_stops_training():
    options = {"epochs": 9, "callback": lambda so_far: len(so_far.history) == 2}
    trained = fit(*kinds.make("functions", 0), kinds.toy_data(), **options)
    assert trained.stop_reason == "callback"
    assert len(trained.history) == 2


def test_several_callbacks():
    """All are called after each epoch, also the one before that ends the training."""
    calls = []

    def first(so_far):
        calls.append(("first", len(so_far.history)))
        return len(so_far.history) == 2

    def second(so_far):
        calls.append(("second", len(so_far.history)))

    options = {"epochs": 9, "callback": [first, second]}
    trained = fit(*kinds.make("functions", 0), kinds.toy_data(), **options)
    assert trained.stop_reason == "callback"
    assert calls == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_interrupt_keeps_last_epoch(tmp_path):
    x = kinds.toy_data()
    model, guide = kinds.make("functions", 0)
    calls = []

    def interrupted(x):
        calls.append(1)
        if len(calls) == 3:  # during the second epoch
            raise KeyboardInterrupt
        return guide(x)

    options = {"epochs": 5, "batch_size": 24, "callback": lambda so_far: calls.clear()}
    calls.extend([0] * 1000)
    stopped = fit(model, interrupted, x, out=tmp_path / "run", **options)
    assert stopped.stop_reason == "interrupted"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stop_reason"] == "interrupted"
    done = len(stopped.history)
    assert 0 < done < 5
    reached = pvae.elbo(stopped.model, guide_of(stopped), x).mean
    whole = fit(*kinds.make("functions", 0), x, epochs=done, batch_size=24)
    assert pvae.elbo(whole.model, whole.guide, x).mean == reached


def guide_of(fitted):
    return fitted.guide


def test_resume_with_drawing_objective(tmp_path):
    x, options = kinds.toy_data(), {"batch_size": 32, "learning_rate": 0.01}

    def run(name, epochs, **more):
        objective = Trace_ELBO(num_particles=2, vectorize_particles=True)
        pair = kinds.make("methods", 0)
        return fit(
            *pair, x, epochs=epochs, objective=objective, out=tmp_path / name, **options, **more
        )

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, resume=True)
    losses = [[row["train_loss"] for row in run_.history] for run_ in (whole, parts)]
    assert losses[0] == losses[1]


def test_same_seed_same_metrics(tmp_path):
    for name in ("a", "b"):
        fit(*kinds.make("methods", 0), kinds.toy_data(), epochs=3, seed=3, out=tmp_path / name)
    a, b = (without_times(tmp_path / name / "metrics.jsonl") for name in ("a", "b"))
    assert a == b
    fit(*kinds.make("methods", 0), kinds.toy_data(), epochs=3, seed=4, out=tmp_path / "c")
    assert without_times(tmp_path / "c" / "metrics.jsonl") != a


def without_times(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "loading", "examples_per_second")}
        for r in rows
    ]


def test_terms_by_site_add_up():
    x = kinds.toy_data()
    trained = fit(*kinds.make("functions", 0), x, epochs=1, valid=x)
    row = trained.history[0]
    assert sum(row["sites"].values()) == pytest.approx(row["valid_elbo"], abs=1e-4)


def test_outer_generators_unchanged():
    before = torch.get_rng_state()
    fit(*kinds.make("functions", 0), kinds.toy_data(), epochs=1)
    assert (torch.get_rng_state() == before).all()


def test_network_of_optimizer_alone():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)

    def model(x):
        pyro.param("other", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.factor("linear", net(x).squeeze(1))  # the gradient is always mean(x)
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=x)

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"epochs": 3, "batch_size": 8, "optimizer": optimizer}
    trained = fit(model, lambda x: None, torch.ones(8, 1), **options)
    assert net.weight.item() == pytest.approx(0.3)
    assert not any("not trained" in note for note in trained.notes)


def test_warmup_longer_than_the_training():
    pair = kinds.make("functions", 0)
    fit = pvae.fit(*pair, kinds.toy_data(32), epochs=2, warmup=5, progress=False)
    assert any("the warm-up of 5 epochs is not over after the 2 epochs" in n for n in fit.notes)


@pytest.mark.parametrize("frozen", [False, True])
def test_new_guide_for_the_model_of_a_fit(frozen):
    """The model keeps its values, and the new guide its own, under the names of the old one."""
    size = {"x_shape": (6,), "z_dim": 2, "hidden": 4}
    x = torch.rand(40, 6).round()
    options = {"epochs": 2, "batch_size": 20, "progress": False}
    first = pvae.fit(pvae.models.VAE(**size), pvae.guides.MeanField(**size), x, **options)
    old = {k: v.clone() for k, v in first.guide.state_dict().items()}
    before = {k: v.clone() for k, v in first.model.state_dict().items()}
    first.model.requires_grad_(not frozen)
    torch.manual_seed(1)
    guide = pvae.guides.MeanField(**size)
    initial = {k: v.clone() for k, v in guide.state_dict().items()}
    second = pvae.fit(first.model, guide, x, **options)
    assert all(torch.equal(v, before[k]) == frozen for k, v in second.model.state_dict().items())
    assert all(torch.equal(v, old[k]) for k, v in first.guide.state_dict().items())
    for name, value in guide.state_dict().items():
        assert 0 < (value - initial[name]).abs().max() < 0.1, name
