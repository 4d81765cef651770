import json

import pyro
import pytest
import torch
from pairs import callables as kinds

import pvae
from pvae.pair.preserve import generator_state, preserve_generators, restore_generators
from pvae.training.run import Run

X = kinds.toy_data()


def fit(out, **options):
    options = {"epochs": 2, "batch_size": 32, "progress": False} | options
    return pvae.fit(*kinds.make("functions", 0), X, out=out, **options)


def test_stale_metrics_dropped_on_resume(tmp_path):
    whole = fit(tmp_path / "whole", epochs=4)
    fit(tmp_path / "run", epochs=2)
    # A process that was killed before its checkpoint leaves such a line.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "train_loss": 0.0, "seconds": 1.0}) + "\n")
    resumed = fit(tmp_path / "run", epochs=4, resume=True)
    assert [r["train_loss"] for r in resumed.history] == [r["train_loss"] for r in whole.history]


def test_resume_with_other_options_raises(tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(ValueError, match=r"made with batch_size 32 \(now 16\), seed 0 \(now 5\)"):
        fit(tmp_path / "run", resume=True, batch_size=16, seed=5)


def test_finished_run_has_nothing_to_resume(tmp_path):
    first = fit(tmp_path / "run")
    again = fit(tmp_path / "run", resume=True)
    assert again.history == first.history
    assert again.stop_reason == "all epochs"


def test_early_stopping_resumes(tmp_path):
    options = {"valid": X[:20], "patience": 3, "learning_rate": 0.3}
    whole = fit(tmp_path / "whole", epochs=60, **options)
    fit(tmp_path / "run", epochs=len(whole.history) - 2, **options)
    resumed = fit(tmp_path / "run", epochs=60, resume=True, **options)
    assert whole.stop_reason == resumed.stop_reason == "early stopping"
    assert whole.best_epoch == resumed.best_epoch
    loaded = pvae.load(
        tmp_path / "run", model=(pair := kinds.make("functions", 3))[0], guide=pair[1]
    )
    assert loaded.best_epoch == whole.best_epoch
    best = whole.history[whole.best_epoch - 1]["valid_elbo"]
    assert pvae.elbo(loaded.model, loaded.guide, X[:20]).mean == pytest.approx(best, abs=1e-6)


def test_summary(tmp_path):
    fitted = fit(tmp_path / "run", config={"why": "a test"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["steps"] == 6
    assert summary["engine"] == fitted.engine
    assert fitted.engine.startswith("eager: all")
    assert summary["stop_reason"] == "all epochs"
    assert summary["train_loss"] == fitted.history[-1]["train_loss"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["why"] == "a test"
    assert config["objective"].startswith("Trace_ELBO(")


def test_file_instead_of_folder_raises(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        fit(tmp_path / "run")


def test_load_without_programs_raises(tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(ValueError, match="was made from Python: give both programs"):
        pvae.load(tmp_path / "run")


def test_tensorboard(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"pip install 'pvae-ppl\[tensorboard\]'"):
            fit(tmp_path / "run", tensorboard=True)
        return
    fit(tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train_loss", "sites/x", "sites/z"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train_loss")] == [1, 2]


def test_generators_restored():
    import random

    import numpy as np

    state = generator_state()
    first = torch.rand(3), np.random.rand(3), random.random()
    restore_generators(state)
    with preserve_generators():
        torch.rand(100)
    again = torch.rand(3), np.random.rand(3), random.random()
    torch.testing.assert_close(first[0], again[0], atol=0, rtol=0)
    assert (first[1] == again[1]).all()
    assert first[2] == again[2]


@pytest.mark.parametrize("make", [lambda: pyro.optim.Adam({"lr": 0.05}), lambda: None])
def test_resume_restores_optimizer(make, tmp_path):
    whole = fit(tmp_path / "whole", epochs=4, optimizer=make())
    pair, optimizer = kinds.make("functions", 0), make()
    options = {"batch_size": 32, "progress": False, "optimizer": optimizer}
    pvae.fit(*pair, X, epochs=2, out=tmp_path / "run", **options)
    pvae.fit(*pair, X, epochs=3, seed=9, **options)  # trains the same networks outside the run
    resumed = pvae.fit(*pair, X, epochs=4, out=tmp_path / "run", resume=True, **options)
    losses = [[row["train_loss"] for row in run.history] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_checkpoint_of_an_earlier_version(tmp_path):
    """It can be loaded, and is refused with a sentence if it is to be resumed."""
    trained = fit(tmp_path / "run")
    run = Run(tmp_path / "run")
    state = {key: value for key, value in run.restore().items() if key != "processes"}
    run.save(state)
    with pytest.raises(ValueError, match="an earlier version of pvae wrote the checkpoint"):
        fit(tmp_path / "run", resume=True, epochs=4)
    model, guide = kinds.make("functions", 3)
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide)
    assert loaded.history == trained.history
