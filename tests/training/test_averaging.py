"""The moving average of the parameters, against its recursion."""

import json

import click
import pytest
import torch
from pairs import callables as kinds

import pvae
from pvae.cli import main
from pvae.training.steps import Steps

X = kinds.toy_data()


def fit(out=None, **options):
    options = {"epochs": 3, "batch_size": 24, "progress": False, "ema": 0.9, **options}
    return pvae.fit(*kinds.make("functions", 0), X, out=out, **options)


def values(fitted):
    return [p.detach().clone() for p in fitted.model.pair.parameters().values()]


@pytest.mark.parametrize("engine", ["eager", "recorded", "captured"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_recursion(engine, decay, monkeypatch):
    trajectory, step = [], Steps.take

    def kept(self, group):
        if not trajectory:
            trajectory.append([p.detach().clone() for p in self.pair.parameters().values()])
        done = step(self, group)
        trajectory.append([p.detach().clone() for p in self.pair.parameters().values()])
        return done

    monkeypatch.setattr(Steps, "take", kept)
    found = fit(ema=decay, engine=engine)
    average = trajectory[0]
    for n, params in enumerate(trajectory[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * p for a, p in zip(average, params, strict=True)]
    raw = values(found)
    with found.averaged():
        torch.testing.assert_close(values(found), average)
        assert decay == 0 or not torch.equal(values(found)[0], raw[0])
    torch.testing.assert_close(values(found), raw, rtol=0, atol=0)


def test_training_is_the_same_with_and_without():
    with_average, without = fit(), fit(ema=None)
    torch.testing.assert_close(values(with_average), values(without), rtol=0, atol=0)
    with (
        pytest.raises(ValueError, match=r"no average of its parameters: give fit ema=0\.999"),
        without.averaged(),
    ):
        pass


def test_resumed_and_loaded(tmp_path):
    whole = fit(tmp_path / "whole", epochs=4, valid=X[:20])
    fit(tmp_path / "run", epochs=2, valid=X[:20])
    resumed = fit(tmp_path / "run", epochs=4, valid=X[:20], resume=True)
    rows = [[row["valid_elbo_ema"] for row in run.history] for run in (whole, resumed)]
    assert rows[0] == rows[1]
    model, guide = kinds.make("functions", 3)
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide, ema=True)
    with whole.averaged():
        torch.testing.assert_close(values(loaded), values(whole), rtol=0, atol=0)


def test_early_stopping_keeps_the_average_of_its_epoch(tmp_path):
    options = {"valid": X[:20], "patience": 3, "learning_rate": 0.3, "epochs": 60}
    found = fit(tmp_path / "run", **options)
    best = found.history[found.best_epoch - 1]
    with found.averaged():
        bound = pvae.elbo(found.model, found.guide, X[:20]).mean
    assert bound == pytest.approx(best["valid_elbo_ema"], abs=1e-6)


@pytest.mark.parametrize("ema", [-0.1, 1.0, float("nan")])
def test_decays_out_of_range(ema):
    with pytest.raises(ValueError, match="give a decay of at least 0 and below 1"):
        fit(ema=ema)


def test_command_line(tmp_path, capsys):
    options = "--data digits --epochs 2 --set hidden=8 --particles 2 --no-progress --ema 0.9"
    run = str(tmp_path / "run")
    main(["train", *options.split(), "--out", run], standalone_mode=False)
    assert "ELBO, averaged" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "run" / "summary.json").read_text())["evaluation"]
    command = ["evaluate", run, "--json", "--particles", "2", "--ema"]
    main(command, standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown["elbo"]["mean"] == pytest.approx(evaluation["elbo_ema"]["mean"])
    other = str(tmp_path / "other")
    main(["train", *options.split()[:-2], "--out", other], standalone_mode=False)
    with pytest.raises(click.ClickException, match="has no moving average"):
        main(["evaluate", other, "--ema"], standalone_mode=False)
