import json
import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pvae
from pvae.cli import main
from pvae.cli.figures import figures
from pvae.cli.invocation import run_folder
from pvae.training.files import read_json, write_json

PAIR = """
import pyro, torch
import pyro.distributions as dist
from torch import nn

decoder, encoder = nn.Linear(2, 6), nn.Linear(6, 2)

def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

class Pair:
    def __init__(self, z_dim=2, x_shape=(6,)):
        self.z_dim = z_dim
        self.decoder, self.encoder = nn.Linear(z_dim, *x_shape), nn.Linear(*x_shape, z_dim)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "pair.py").write_text(PAIR)
    x = generator.normal(size=(120, 2)) @ generator.normal(size=(2, 6))
    np.savez(tmp_path / "mine.npz", train=x[:80], test=x[80:])
    return tmp_path


def pvae_(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


QUICK = ("--epochs", 2, "--particles", 20)
SMALL = ("--set", "hidden=16", "--set", "z_dim=2")


def test_train_table_and_figures(folder):
    output = pvae_("train", *QUICK, *SMALL, "--out", "run")
    assert output.startswith("176 test rows, nats per datum\n")
    assert re.search(r"ELBO +-\d+\.\d\d ± \d+\.\d\d +lower bound +10 draws per datum", output)
    assert re.search(r"log p\(x\) +-\d+\.\d\d ± .*20 importance samples", output)
    assert re.search(r"engine +recorded since step 22", output)
    drawn = {path.stem for path in (folder / "run" / "figures").glob("*.png")}
    expected = {"learning_curve", "reconstructions", "samples", "latent_means", "manifold"}
    assert drawn == expected | {"interpolations", "traversals"}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["evaluation"]["elbo"]["mean"] < 0


def test_evaluate_json(folder):
    pvae_("train", *QUICK, *SMALL, "--out", "run")
    found = json.loads(pvae_("evaluate", "run", "--particles", 30, "--json"))
    fit = pvae.load("run")
    test = pvae.data.load("digits").test
    bound = pvae.elbo(fit.model, fit.guide, test, 10)
    assert found["elbo"] == pytest.approx(bound.as_json())
    assert found["sites"] == pytest.approx(bound.sites)
    likelihood = pvae.log_likelihood(fit.model, fit.guide, test, 30)
    assert found["log_likelihood"] == pytest.approx(likelihood.as_json())
    assert found["elbo"]["mean"] < found["log_likelihood"]["mean"]
    assert (found["split"], found["rows"]) == ("test", 176)


@pytest.mark.parametrize(
    ("model", "guide"),
    [("pair.py:model", "pair.py:guide"), ("pair.py:Pair.model", "pair.py:Pair.guide")],
)
def test_user_pair_in_every_command(folder, model, guide):
    options = () if "Pair" not in model else ("--set", "z_dim=2")
    pvae_("train", model, guide, "--data", "mine.npz", *QUICK, *options, "--out", "run")
    found = json.loads(pvae_("evaluate", "run", "--trust", "--json"))
    assert found["rows"] == 40
    output = pvae_("sample", "run", "--trust", "--num-samples", 5)
    assert "x (5, 6)" in output
    assert "z (5, 2)" in output
    assert (folder / "run" / "samples.png").stat().st_size > 1000
    draws = np.load(folder / "run" / "samples.npz")
    assert draws["x"].shape == (5, 6)
    for options in (("--given", "z=[0.5,1]", "--mean"), ("--given", "z=[0.5,1]")):
        pvae_("sample", "run", "--trust", "--n", 5, *options, "--out", "given.npz")
        given = np.load("given.npz")
        assert (given["z"] == [0.5, 1]).all()
        assert (given["x"] == given["x"][:1]).all() is np.bool_("--mean" in options)
    output = pvae_("sample", "run", "--trust", "--given", "y=3", code=1)
    assert "the model has no ['y']: its sites are ['z', 'x'], and its arguments are ['x']" in output
    pvae_("infer", "run", "--trust", "--split", "train", "--num-samples", 7, "--out", "draws.npz")
    assert np.load("draws.npz")["z"].shape == (7, 80, 2)
    pvae_("infer", "run", "--trust", "--split", "train", "--out", "codes.npz")
    assert np.load(folder / "codes.npz")["z"].shape == (80, 2)
    assert len(pvae.load("run", trust=True).history) == 2


GLOBAL = """
import pyro, torch
import pyro.distributions as dist

def model(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

def guide(x):
    loc = pyro.param("loc", torch.zeros(6))
    pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

def point(x):
    loc = pyro.param("loc", torch.zeros(6))
    pyro.sample("w", dist.Delta(loc, event_dim=1))
"""


def test_pair_with_global_sites(folder):
    (folder / "weights.py").write_text(GLOBAL)
    pvae_(
        "train", "weights.py:model", "weights.py:guide", "--data", "mine.npz", *QUICK, "--out", "a"
    )
    output = pvae_("evaluate", "a", "--trust")
    assert "log p(x | data)" in output
    assert "100 draws of global sites" in output
    assert "count 1 / 80" in output
    found = json.loads(pvae_("evaluate", "a", "--trust", "--json"))
    assert found["elbo"]["data_size"] == 80
    assert found["log_predictive"]["num_samples"] == 100
    assert "log_likelihood" not in found
    pvae_(
        "train", "weights.py:model", "weights.py:point", "--data", "mine.npz", *QUICK, "--out", "b"
    )
    output = pvae_("evaluate", "b", "--trust")
    assert "log p(x, w)" in output
    assert "ELBO" not in output


def test_samples_have_trained_global_sites(monkeypatch):
    """Draws of z are from the prior; those of weights from it would say nothing of the training."""
    import pyro
    import pyro.distributions as dist

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(8, 8), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 0.1))
            pyro.sample("x", dist.Normal(w + z[:, None, None], 0.1).to_event(2), obs=x)

    def guide(x):
        w = pyro.param("value", torch.full((8, 8), 3.0))
        pyro.sample("w", dist.Delta(w, event_dim=2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 0.1))

    shown = []
    monkeypatch.setattr("pvae.plots.prior_samples", lambda means, **more: shown.append(means))
    fit = pvae.fit(model, guide, torch.randn(20, 8, 8) + 3, epochs=0, progress=False)
    figures(fit, pvae.data.Rows(torch.randn(20, 8, 8) + 3))
    assert abs(shown[0].mean().item() - 3) < 0.2


def test_codes_with_labels(folder):
    pvae_("train", *QUICK, *SMALL, "--out", "run")
    pvae_("infer", "run", "--split", "valid", "--out", "codes.npz")
    codes = np.load(folder / "codes.npz")
    assert (codes["labels"] == pvae.data.load("digits").valid.labels.numpy()).all()


def test_programs_of_a_run_need_trust_and_the_same_file(folder):
    pvae_("train", "pair.py:model", "pair.py:guide", "--data", "mine.npz", *QUICK, "--out", "run")
    refused = pvae_("evaluate", "run", code=1)
    assert "pair.py:model' as its model, which is code of its own" in refused
    assert "ELBO" in pvae_("evaluate", "run", "--trust")
    (folder / "pair.py").write_text(PAIR + "\nraise SystemExit('executed')\n")
    refused = pvae_("evaluate", "run", "--trust", code=1)
    assert "pair.py has changed since the run was trained" in refused
    assert "executed" not in refused
    (folder / "pair.py").unlink()
    assert "was removed after the run was trained" in pvae_("evaluate", "run", "--trust", code=1)


@pytest.mark.parametrize("text", ["subprocess:Popen", "os:system", "evil.py:model", "evil.py"])
def test_config_executes_no_code(folder, text):
    (folder / "evil.py").write_text("open('executed', 'w')\nmodel = print\n")
    pvae_("train", *QUICK, *SMALL, "--out", "run")
    config = read_json(folder / "run" / "config.json")
    for sources in ({}, {"text": text}, {"text": text, "file": str(folder / "evil.py")}):
        config["pair"]["model"] = text
        config["pair"]["sources"]["model"] |= sources
        write_json(folder / "run" / "config.json", config)
        for trust in ([], ["--trust"]):
            output = pvae_("evaluate", "run", *trust, code=1)
            assert output.startswith("Error: the run")
        command = {**config["command"], "model": text}  # which resumption reads
        write_json(folder / "run" / "config.json", {**config, "command": command})
        output = pvae_("train", "--resume", "--out", "run", code=1)
        assert output.startswith("Error: the run")
    assert not (folder / "executed").exists()


def without_times(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "loading", "examples_per_second")}
        for r in rows
    ]


def test_resumed_run_has_same_metrics(folder):
    for name in ("a", "b"):
        pvae_("train", *SMALL, "--epochs", 4, "--particles", 5, "--out", name)
    pvae_("train", *SMALL, "--epochs", 2, "--particles", 5, "--out", "c")
    pvae_("train", "--resume", "--out", "c", "--epochs", 4)
    a, b, c = (without_times(folder / name / "metrics.jsonl") for name in "abc")
    assert len(a) == 4
    assert a == b == c


def test_number_of_threads(folder, monkeypatch):
    numbers = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    pvae_("train", *SMALL, *QUICK, "--threads", 1, "--out", "run")
    pvae_("train", "--resume", "--out", "run", "--epochs", 2)
    pvae_("train", "--resume", "--out", "run", "--epochs", 3, "--threads", 2)
    assert numbers == [1, 1, 2]


def test_measured_number_of_threads(folder, monkeypatch):
    numbers, fastest = [], iter([1, 2, 2])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr("pvae.cli.train.fastest_number_of_threads", lambda: next(fastest))
    pvae_("train", *SMALL, *QUICK, "--threads", "auto", "--out", "run")
    assert json.loads((folder / "run" / "config.json").read_text())["command"]["threads"] == 1
    pvae_("train", "--resume", "--out", "run", "--epochs", 2, "--threads", "auto")
    assert numbers == [1, 1]  # the run's, whatever would be faster now
    pvae_("train", *SMALL, *QUICK, "--threads", "auto", "--out", "other")
    assert numbers == [1, 1, 2]
    assert "'some' is not a valid integer" in pvae_("train", "--threads", "some", code=2)


def test_existing_run_folder(folder):
    pvae_("train", *QUICK, *SMALL, "--out", "run")
    refused = pvae_("train", *QUICK, *SMALL, "--out", "run", code=1)
    assert "run already contains a run: resume it" in refused
    changed = pvae_("train", "--resume", "--out", "run", "--seed", 3, code=1)
    assert "the run was started with seed=0, not 3" in changed
    lower = ("--resume", "--out", "run", "--epochs", 3, "--learning-rate", 1e-4)
    assert "with learning_rate=0.001, not 0.0001" in pvae_("train", *lower, code=1)
    assert "with another learning_rate" in pvae_("train", *lower, "--allow-changed")
    assert pvae.load("run").history[-1]["learning_rate"] == pytest.approx(1e-4)
    pvae_("train", *QUICK, *SMALL, "--out", "run", "--overwrite", "--seed", 3)
    assert json.loads((folder / "run" / "config.json").read_text())["seed"] == 3


def test_default_run_folders(folder):
    for _ in range(2):
        pvae_("train", *QUICK, *SMALL)
    assert {p.name for p in (folder / "runs").iterdir()} == {"digits-1", "digits-2"}


def test_list_names_everything(folder):
    output = pvae_("list")
    assert re.search(r"  vae +One layer of Gaussian latent variables.*z_dim=20", output)
    assert re.search(r"  full_rank +.*network=mlp", output)
    for name in (*pvae.data.names, *pvae.likelihoods.names, "elbo"):
        assert name in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vea",), "unknown model 'vea'; nearest: 'vae'"),
        (("vae", "meanfield"), "unknown guide 'meanfield'; nearest: 'mean_field'"),
        (("--data", "digit"), "unknown data set 'digit'; nearest: 'digits'"),
        (("--set", "zdim=2"), "no constructor has an option 'zdim'; nearest: 'z_dim'"),
        (("--set", "likelihood=bernuli"), "unknown likelihood 'bernuli'; nearest: 'bernoulli'"),
        (("--set", "z_dim"), "'z_dim' is not an option: write key=value"),
        (("--objective", "elob"), "unknown objective 'elob'; nearest: 'elbo'"),
        (("--objective", "elbo:particles=3"), "its options are"),
        (("--set", "likelihood=bernoulli"), "outside the support of Bernoulli, such as 0."),
        (("--set", "x_shape=(7,8)"), "got x of shape (128, 8, 8); expected (*batch, *x_shape)"),
        (("--batch-size", "5000"), "batch_size 5000 is above the 1444 rows"),
        (("--device", "cuda:7"), "device 'cuda:7' does not exist: this machine has ['cpu'"),
        (("--binarize", "dynamical"), "dynamic"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
        (("nothing.py:model", "pair.py:guide"), "there is no file"),
        (("pair.py:modle", "pair.py:guide"), "has no 'modle'; nearest: 'model'"),
        (("pair.py:Pair.modle", "pair.py:Pair.guide"), "Pair has no 'modle'; nearest: 'model'"),
        (("pair.py:model", "pair.py:guide", "--set", "z_dim=3"), "which takes no options"),
        (("--resume",), "--resume needs the folder of the run"),
        (("--epochs", "-1"), "epochs is -1: give at least 0"),
        (("--seed", "-1"), "seed is -1: give at least 0"),
        (("--set", "x_shape=8"), "x_shape is 8; expected one or more sizes of at least 1, such as"),
        (("--set", "x_shape=(8,8.5)"), "x_shape is (8, 8.5); expected one or more sizes"),
        (("--set", "hidden=1.5"), "hidden=1.5; expected whole sizes of at least 1"),
        (("--set", "z_dim=1.5"), "z_dim is 1.5: give a whole number, at least 1"),
        (("--set", f"z_dim={10**12}"), "there is not enough memory for this"),
        (("--objective", "elbo:beta=nan"), "beta is nan: give at least 0"),
        (("--objective", "iwae:num_particles=1.5"), "num_particles is 1.5: give a whole number"),
        (("--device", "meta"), "device 'meta' does not exist"),
    ],
)  # fmt: skip
def test_bad_input_raises(folder, arguments, message):
    output = (
        pvae_("train", *arguments, "--out", "run", code=1)
        if "--resume" not in arguments
        else pvae_("train", *arguments, code=1)
    )
    assert output.startswith("Error: ")
    assert "Traceback" not in output
    assert message in output
    assert not (folder / "run").exists()


def test_diverged_first_epoch(folder):
    output = pvae_("train", "--learning-rate", "1e3", *QUICK, code=1)
    assert output.startswith("Error: the training diverged: its loss is not finite from step 1 on")
    assert "Try a lower learning rate (now 1000)" in output


def test_missing_run_raises(folder):
    assert "nowhere is not a run folder" in pvae_("evaluate", "nowhere", code=1)


def test_resume_from_another_folder(folder, monkeypatch):
    pair = ("pair.py:model", "pair.py:guide", "--data", "mine.npz")
    pvae_("train", *pair, *QUICK, "--out", "run")
    pvae_("train", *pair, "--resume", "--out", "run", "--epochs", 3)
    (folder / "other").mkdir()
    monkeypatch.chdir(folder / "other")
    assert "say that you trust it" in pvae_("train", "--resume", "--out", folder / "run", code=1)
    pvae_("train", "--resume", "--out", folder / "run", "--epochs", 4, "--trust")
    assert len(pvae.load(folder / "run", trust=True).history) == 4
    monkeypatch.chdir(folder)
    pvae_("train", *pair, *QUICK, "--schedule", "cosine", "--out", "cosine")
    refused = pvae_("train", "--resume", "--trust", "--out", "cosine", "--epochs", 9, code=1)
    assert "learning rate falls to 0 over its 2 epochs" in refused


def test_bench_table_and_json(folder):
    arguments = ["bench", "pair.py:model", "pair.py:guide", "--data", "mine.npz", "--rounds", "2"]
    printed = pvae_(*arguments)
    for name in ("Pyro, as users run it", "pvae eager", "pvae recorded", "pvae captured"):
        assert name in printed
    found = json.loads(pvae_(*arguments, "--batch-size", "8", "--json"))
    assert found["batch"] == 8
    assert found["milliseconds"]["pvae recorded"]["median"] > 0
    assert found["machine"]["torch"]
    assert found["notes"] == []


def test_check_table_and_exit_code(folder):
    printed = pvae_("check", "pair.py:model", "pair.py:guide", "--data", "mine.npz")
    assert printed.splitlines()[-1] == "nothing found"
    assert re.search(r"x +model +data 80 +\(80,\) +\(6,\) +Normal, observed", printed)
    (folder / "broken.py").write_text(
        PAIR.replace("decoder(z), 1.0).to_event(1)", "decoder(z), 1.0)")
    )
    refused = pvae_("check", "broken.py:model", "broken.py:guide", "--data", "mine.npz", code=1)
    assert refused.startswith("error: broken.py:12: the pair fails on a batch of (80, 6)")
    assert ".to_event(1)" in refused
    refused = pvae_("train", "broken.py:model", "broken.py:guide", "--data", "mine.npz", code=1)
    assert refused.startswith("Error: broken.py:12: the pair fails on a batch of (80, 6)")


def test_table_width(folder):
    output = pvae_("train", *QUICK, *SMALL, "--out", "run")
    output += pvae_("evaluate", "run", "--num-particles", 10)
    assert max(map(len, output.splitlines())) <= 100
    explained = pvae_("evaluate", "run", "--num-particles", 10, "--explain")
    assert max(map(len, explained.splitlines())) <= 100
    assert "ELBO: E_q[log p(x, z) - log q(z | x)], a lower bound on log p(x)" in explained


def test_summary_has_the_bound_of_the_kept_epoch(folder):
    pvae_("train", *SMALL, "--epochs", 6, "--patience", 2, "--particles", 5, "--out", "run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    rows = [json.loads(row) for row in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert summary["valid_elbo"] == rows[summary["best_epoch"] - 1]["valid_elbo"]


def test_latent_means_are_of_codes_and_not_of_classes(monkeypatch):
    digits = pvae.data.load("digits", labels=100, binarize="static")
    sizes = {"x_shape": (8, 8), "z_dim": 3, "hidden": 8}
    pair = pvae.models.SSVAE(**sizes), pvae.guides.Classifier(**sizes)
    fit = pvae.fit(*pair, digits.train, epochs=1, progress=False)
    drawn = []
    monkeypatch.setattr("pvae.plots.latent_means", lambda z, labels: drawn.append(z))
    rows = digits.test[:20]
    figures(fit, rows)
    assert list(pvae.infer(fit.guide, rows)) == ["y", "z"]
    assert drawn[0].shape == (20, 3)


def test_labels_of_a_conditional_run(folder):
    (folder / "conditional.py").write_text(
        PAIR.replace("def model(x):", "def model(x, y):").replace(
            "def guide(x):", "def guide(x, y):"
        )
    )
    x = np.random.default_rng(0).normal(size=(90, 6))
    labels = np.arange(90) % 3
    np.savez(folder / "labelled.npz", train=x, train_labels=labels)
    pair = ("conditional.py:model", "conditional.py:guide")
    pvae_("train", *pair, "--data", "labelled.npz", "--labels", *QUICK, "--out", "run")
    fit = pvae.load("run", trust=True)
    rows = pvae.data.load("labelled.npz", labels=True).train
    drawn = figures(fit, rows)
    assert "latent_means" in drawn
    assert "manifold" not in drawn  # rows are no images


def test_sigterm_ends_with_its_code_and_resume_auto_goes_on(folder):
    options = [*map(str, SMALL), "--particles", "5", "--no-progress", "--resume", "auto"]
    command = [sys.executable, "-m", "pvae", "train", *options, "--out", "run", "--epochs"]
    pipes = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "100000"], **pipes) as process:
        metrics = folder / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        process.terminate()
        assert "continue with `pvae train --resume --out run`" in process.communicate()[1]
    assert process.returncode == 143
    done = len(pvae.load("run").history)
    pvae_("train", *options, "--out", "run", "--epochs", done + 1)
    pvae_("train", *SMALL, "--particles", 5, "--out", "whole", "--epochs", done + 1)
    losses = [[r["train_loss"] for r in pvae.load(run).history] for run in ("run", "whole")]
    assert losses[0] == losses[1]  # in the log, the epoch that was cut off may come twice
    assert "--resume auto needs the folder" in pvae_("train", "--resume", "auto", code=1)


def test_options_from_a_file(folder):
    (folder / "mine.toml").write_text(
        'data = "digits"\nepochs = 3\nseed = 5\nparticles = 5\n[set]\nhidden = [16, 8]\nz_dim = 2\n'
    )
    refused = pvae_("train", "--config", "mine.toml", code=1)
    assert "unknown option 'particles'; nearest: 'num_particles'" in refused
    text = (folder / "mine.toml").read_text().replace("particles", "num_particles")
    (folder / "mine.toml").write_text(text)
    pvae_("train", "--config", "mine.toml", "--epochs", 2, "--out", "a")
    command = read_json(folder / "a" / "config.json")["command"]
    assert (command["epochs"], command["seed"], command["num_particles"]) == (2, 5, 5)
    assert command["settings"] == ["hidden=[16, 8]", "z_dim=2"]
    pvae_("train", "--config", "a/config.json", "--out", "b")  # every run's config runs again
    a, b = (without_times(folder / name / "metrics.jsonl") for name in "ab")
    assert a == b
    (folder / "broken.toml").write_text("epochs = ")
    assert "broken.toml is no TOML" in pvae_("train", "--config", "broken.toml", code=1)


def test_trainings_at_the_same_time_get_folders_of_their_own(folder):
    given = {"out": None, "data_name": "digits"}
    with run_folder(given) as first, run_folder(given) as second:
        assert [str(first), str(second)] == ["runs/digits-1", "runs/digits-2"]
        (second / "something").write_text("")
    with pytest.raises(ValueError, match="wrong"), run_folder(given) as third:
        raise ValueError("wrong")
    assert not third.exists()
    assert second.exists()


def test_learning_rate_rises_and_falls(folder):
    schedule = ["--schedule", "cosine", "--learning-rate-warmup", "3"]
    pair = ["pair.py:model", "pair.py:guide", "--data", "mine.npz"]
    pvae_("train", *pair, *QUICK, *schedule, "--epochs", "8", "--out", "run")
    rates = [row["learning_rate"] for row in pvae.load("run", trust=True).history]
    expected = [0.25, 0.5, 0.75, *(0.5 + 0.5 * math.cos(math.pi * k / 5) for k in range(5))]
    assert rates == pytest.approx([1e-3 * factor for factor in expected])
