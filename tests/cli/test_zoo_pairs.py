"""Pairs of the zoo train, sample and infer from the command line, as they come."""

import os

import pytest
from click.testing import CliRunner
from pairs.zoo import COMPATIBLE

from pvae import zoo
from pvae.cli import main

OWN_DATA = {"dmm", "tabular"}
FEW = ("--epochs", "1", "--particles", "5", "--no-progress", "--out", "run")
OTHERS = pytest.mark.slow  # all but the default guides; test_zoo_combinations.py has them in short
PAIRS = [
    pytest.param(model, guide, marks=() if guide == zoo.usual(model)["guide"] else OTHERS)
    for model in COMPATIBLE
    for guide in sorted(COMPATIBLE[model])
    if model not in OWN_DATA
]


def run(*command):
    result = CliRunner().invoke(main, list(command))
    assert result.exit_code == 0, (command, result.output)
    return result.output


def sizes(model, guide):
    # Fitting 176 rows for each estimate by 200 gradient steps would take minutes.
    return ("--set", "num_steps=2") if guide == "per_datum" else ()


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_pair_with_default_options(model, guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = sizes(model, guide)
    run("check", model, guide, *small)
    run("train", model, guide, *small, *FEW)
    run("sample", "run", "--n", "4", "--mean")
    run("infer", "run", "--num-samples", "2")


@pytest.mark.slow
@pytest.mark.skipif("PVAE_DATA" not in os.environ, reason="PVAE_DATA is not set: no real data here")
@pytest.mark.parametrize("model", sorted(OWN_DATA))
def test_model_with_its_own_data(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "ELBO" in run("train", model, *FEW)
    run("sample", "run", "--n", "4")
    run("infer", "run")


def test_list_names_everything():
    printed = run("list")
    for role in ("model", "guide"):
        for entry in zoo.entries(role):
            assert f"  {entry.name} " in printed
            assert entry.summary in printed
            assert f"Default guide: {entry.usual['guide']}." in printed if entry.usual else True


def test_a_table_of_ones_own(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    columns = [
        2 * z + 5,
        np.exp(z),
        rng.poisson(np.exp(z / 2)),
        (z > 0) + 1,
        np.digitize(z, [-1, 1]),
    ]
    x = np.stack(columns, 1)
    x[rng.random(x.shape) < 0.2] = np.nan
    kind = np.array(["real", "pos", "count", "cat", "ordinal"])
    for name, arrays in (("data", {}), ("train", {"classes": np.array([0, 0, 0, 2, 3])})):
        np.savez("mine.npz", **{name: x}, kind=kind, **arrays)
        run("check", "tabular", "--data", "mine.npz")
        run("train", "tabular", "--data", "mine.npz", *FEW, "--overwrite")
        run("evaluate", "run", "--no-progress")
        run("impute", "run", "--num-samples", "3")
        with np.load("run/imputed.npz") as found:
            assert np.array_equal(found["missing"], np.isnan(x))
            seen = ~np.isnan(x)
            assert np.allclose(found["x"][seen], x[seen].astype(np.float32))
            assert np.isfinite(found["x"]).all()
            assert set(np.unique(found["x"][:, 3])) == {1, 2}
            assert found["ess"].shape == (200,)
    np.savez("mine.npz", data=x, kind=np.array(["real", "pos", "count", "cat", "what"]))
    result = CliRunner().invoke(main, ["train", "tabular", "--data", "mine.npz"])
    assert "column 4 has kind 'what'" in result.output
