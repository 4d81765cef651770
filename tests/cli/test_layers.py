"""Models with several layers from the command line: objectives, and a line for each layer."""

import json
import re

import pytest
from click.testing import CliRunner

from pvae.cli import main

QUICK = ("--epochs", "3", "--particles", "20", "--no-progress", "--out", "run")


def train(*arguments, code=0):
    result = CliRunner().invoke(main, ["train", "helmholtz", *arguments, *QUICK])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "objective",
    [
        "vimco:num_particles=10",
        "wake_sleep",
        "rws",
        "rws:num_particles=3,insomnia=0.5",
        "reinforce:baseline=network",
        "concrete",
    ],
)
def test_binary_layers(folder, objective):
    output = train(
        "bottom_up", "--data", "digits", "--set", "dims=[32,16]", "--set", "latent=bernoulli",
        "--objective", objective,
    )  # fmt: skip
    for layer in ("z1", "z2"):
        assert re.search(rf"KL\(q \|\| p\) of {layer} +-?\d+\.\d\d ± ", output)
    assert "not reparameterized" not in output


def test_ladder_with_warmup(folder):
    output = train(
        "ladder", "--data", "digits", "--binarize", "threshold", "--set", "dims=[8,4,2]", "--set",
        "hidden=16", "--objective", "elbo:kl=analytic,warmup=1,sites=['z1','z2','z3']",
    )  # fmt: skip
    for layer in ("z1", "z2", "z3"):
        assert re.search(rf"KL\(q \|\| p\) of {layer} +-?\d+\.\d\d ± ", output)
    rows = [
        json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["objective_beta"] for row in rows] == [0.5, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ladder", "--set", "latent=bernoulli"), "BottomUp"),
        (("ladder", "--objective", "wake_sleep"), "they share parameters .*use ELBO"),
        (("bottom_up", "--set", "latent=bernoulli", "--objective", "iwae"), "use VIMCO, or RWS"),
        (("bottom_up", "--objective", "elbo:sites=z9"), r"latent sites are \['z2', 'z1'\]"),
    ],
)
def test_invalid_options_raise(folder, arguments, said):
    output = train(*arguments, "--set", "dims=[8,4]", code=1)
    assert re.search(said, output), output
    assert "Traceback" not in output
    assert not (folder / "run").exists()
