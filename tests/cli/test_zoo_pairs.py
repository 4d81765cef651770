"""Models and guides with one latent layer train together from the command line, as they come."""

import pytest
from click.testing import CliRunner

from pvae import zoo
from pvae.cli import main

LAYERED = {"helmholtz", "bottom_up", "ladder"}
MODELS = sorted({entry.name for entry in zoo.entries("model")} - LAYERED)
GUIDES = sorted({entry.name for entry in zoo.entries("guide")} - LAYERED)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
def test_pair_with_default_options(model, guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ("--epochs", "1", "--particles", "5", "--no-progress", "--out", "run")
    for command in (("check", model, guide, "--data", "digits"),
                    ("train", model, guide, "--data", "digits", *few),
                    ("sample", "run", "--n", "4", "--mean"),
                    ("infer", "run", "--num-samples", "2")):  # fmt: skip
        result = CliRunner().invoke(main, list(command))
        assert result.exit_code == 0, (command, result.output)
