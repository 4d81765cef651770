"""The tutorials run in their short form, and their output supports their prose."""

import ast
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.tutorials
FOLDER = Path(__file__).parents[1] / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
FIGURES = {
    "01_first_vae": {
        "01_learning_curve", "01_reconstructions", "01_samples", "01_latent_means", "01_manifold",
        "01_zoo_reconstructions",
    },
    "02_your_own_pair": {"02_latent_means", "02_reconstructions", "02_learning_curve"},
    "03_reparameterization": {"03_variance", "03_training"},
    "04_autoencoders": {"04_codes", "04_draws", "04_chain"},
    "05_which_inference": {"05_learning", "05_posteriors"},
    "06_helmholtz_machines": {"06_wake_sleep", "06_binary_layers", "06_layers", "06_dreams"},
    "07_better_posteriors": {"07_gaps", "07_posteriors"},
    "08_priors": {"08_codes", "08_draws"},
    "09_evaluation": {"09_particles", "09_calibration"},
    "10_uncertain_weights": {"10_predictive", "10_certainty", "10_draws"},
    "11_labels_and_conditions": {"11_conditional", "11_styles"},
    "12_sequences": {"12_rolls", "12_forecast"},
    "13_tables_with_holes": {"13_coverage", "13_silence"},
    "14_speed_and_scale": {"14_engines", "14_batches"},
    "15_long_runs": {"15_average"},
}  # fmt: skip

NO_NETWORK = """
import socket

def refuse(self, address):
    raise AssertionError(f"a tutorial called {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Output and figures of each tutorial, run in an empty folder without data sets or network."""
    guard = tmp_path_factory.mktemp("guard")
    (guard / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {k: v for k, v in os.environ.items() if k != "PVAE_DATA"} | {
        "PVAE_SHORT": "1",
        "PVAE_CACHE": str(guard / "cache"),
        "PYTHONPATH": str(guard),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }

    def run(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "mnist").mkdir()  # an empty folder `mnist` must not trigger a download
        result = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        figures = {path.stem: path.stat().st_size for path in (folder / "figures").glob("*.png")}
        return result.stdout, figures

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(NAMES, pool.map(run, NAMES), strict=True))


def numbers(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, f"{pattern!r} is not in the output:\n{text}"
    return tuple(map(float, match.groups()))


@pytest.mark.parametrize("name", NAMES)
def test_figures(outputs, name):
    figures = outputs[name][1]
    assert set(figures) == FIGURES[name]
    assert min(figures.values()) > 1000


def test_first_vae(outputs):
    text = outputs["01_first_vae"][0]
    (first,) = numbers(r"validation bound after epoch 1: +(-[\d.]+)", text)
    (best,) = numbers(r"best validation bound, epoch \d+: (-[\d.]+)", text)
    assert best > first
    (bound,) = numbers(r"ELBO +(-[\d.]+)", text)
    (evidence,) = numbers(r"log-likelihood +(-[\d.]+)", text)
    assert evidence > bound
    (x,), (z,) = numbers(r"  x +(-[\d.]+)", text), numbers(r"  z +(-[\d.]+)", text)
    assert x + z == pytest.approx(bound, abs=0.02)


def test_missing_mnist(outputs):
    text = outputs["01_first_vae"][0]
    assert "$PVAE_DATA holds no MNIST: training on the small digits instead" in text
    assert "digits: " in text


def test_own_pair(outputs):
    text = outputs["02_your_own_pair"][0]
    (bound,) = numbers(r"ELBO +(-[\d.]+)", text)
    (evidence,) = numbers(r"log-likelihood +(-[\d.]+)", text)
    assert evidence > bound
    gain, error = numbers(r"pair minus independent +([\d.]+) \+- ([\d.]+)", text)
    assert gain > 4 * error
    near, chance = numbers(r"places: ([\d.]+) for nearest codes, ([\d.]+) for random", text)
    assert near < chance / 2
    assert "the loaded pair has the same bound: True" in text


def test_own_likelihood(outputs):
    text = outputs["02_your_own_pair"][0]
    (spread,) = numbers(r"variance over mean around the reconstructions: ([\d.]+)", text)
    assert spread > 1.2
    gain, error = numbers(r"negative binomial minus Poisson +([\d.]+) \+- ([\d.]+)", text)
    assert gain > 4 * error


def test_autoencoders(outputs):
    text = outputs["04_autoencoders"][0]
    text = text.partition("draw to digit")[2]
    rows = {
        name: numbers(rf"^{name} +([\d.]+) +([\d.]+)$", text)
        for name in ("autoencoder", "VAE", "autoencoder, fitted Gaussian", "chain after  0 steps")
    }
    assert rows["autoencoder"] > rows["VAE"]
    assert rows["autoencoder, fitted Gaussian"] < rows["chain after  0 steps"]
    assert "VAE: log p(x) = -" in text
    assert "autoencoder: sites ['z'] of the guide are point masses" in text


def test_which_inference(outputs):
    text = outputs["05_which_inference"][0]
    first, *_, last = re.findall(r"sweeps: gap ([\d.]+) nats, means off by ([\d.]+)", text)
    assert float(first[0]) > float(last[0])
    assert float(last[1]) < 1e-3
    assert "its means are exact, its scales 0." in text
    (floor,) = numbers(r"floor of factorised q +([\d.]+)", text)
    (factorised,) = numbers(r"^amortized, factorised .* ([\d.]+)$", text)
    assert factorised > floor - 0.01
    *_, em = numbers(r"^EM +([\d.]+) +([\d.]+)$", text)
    *_, theory = numbers(r"^theory, 31 / 2n +([\d.]+) +([\d.]+)$", text)
    assert em < 4 * theory


def test_numbers_run_on():
    assert [int(name[:2]) for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_better_posteriors(outputs):
    text = outputs["07_better_posteriors"][0]
    for name in ("mean field", "full rank", "flow"):
        bound, evidence, gap = numbers(rf"^{name} +(-[\d.]+) +(-[\d.]+) +([\d.]+)$", text)
        assert evidence - bound == pytest.approx(gap, abs=0.02)
        assert len(numbers(rf"^model of {name} +(-?[\d.]+) +(-?[\d.]+) +(-?[\d.]+)$", text)) == 3
    for name in ("the ELBO", "L_16"):
        bound, tight, evidence = numbers(rf"^{name} +(-[\d.]+) +(-[\d.]+) +(-[\d.]+)$", text)
        assert bound < tight < evidence + 0.05


def test_priors(outputs):
    text = outputs["08_priors"][0]
    for name in ("standard", "learned", "mixture", "vamp", "flow"):
        bound, evidence, kl, information, apart = numbers(
            rf"^{name} +(-[\d.]+) +(-[\d.]+) +([\d.]+) +([\d.]+) +(-?[\d.]+)$", text
        )
        assert evidence > bound
        assert information + apart == pytest.approx(kl, abs=0.02)
    assert numbers(r"sphere: bound (-[\d.]+)", text)


def test_uncertain_weights(outputs):
    text = outputs["10_uncertain_weights"][0]
    few = numbers(r"^50 +" + r" +".join([r"(-[\d.]+)"] * 6) + "$", text)
    ml, variational = few[0] - few[1], few[4] - few[5]
    assert ml > variational > 0  # nats of overfitting


def test_labels_and_conditions(outputs):
    text = outputs["11_labels_and_conditions"][0]
    (accuracy,) = numbers(r"p\(x \| y\) as a classifier: ([\d.]+)%", text)
    alone, m2 = numbers(r"^50 +([\d.]+)% +([\d.]+)%$", text)
    (bit,) = numbers(r"the bit is recovered for ([\d.]+)%", text)
    assert min(accuracy, alone, m2) > 50
    assert bit > 95


def test_sequences(outputs):
    text = outputs["12_sequences"][0]
    assert "the chorales are not there ($PVAE_DATA): four voices by a rule instead" in text
    assert "sounds: 12_chords.wav 12_data.wav 12_drawn.wav" in text
    assert re.search(r"by hand: [\d.]+ nats per note; recorded since step 21", text)


def test_tables_with_holes(outputs):
    text = outputs["13_tables_with_holes"][0]
    rows = {
        name: numbers(rf"^{name} +" + r" +".join([r"([\d.]+)"] * 5) + "$", text)
        for name in ("mean or mode", "VAE", "the true program")
    }
    assert all(a > b for a, b in zip(rows["mean or mode"], rows["the true program"], strict=True))
    assert sum(rows["VAE"]) < sum(rows["mean or mode"])
    (inside,) = numbers(r"height: (\d+)% of the true values", text)
    assert 65 < inside < 92
    every, hidden, drawn = numbers(r"median income: all (\d+), hidden (\d+), .* hidden (\d+)", text)
    assert drawn < hidden
    assert every < hidden


@pytest.mark.parametrize(
    "message",
    [
        "guide has no site 'z'; the model samples ['z'], the guide []",
        "guide samples 'code', but the model has no such site",
        "02_your_own_pair.py:",
        "Shape mismatch inside plate('data') at site x",
        "outside the support of Bernoulli",
        "the pair fails on a batch of (128, 20)",
        "x has NaN or infinity in 1 of its 2000 rows, counted from 0: 17",
        "batch_size 5000 is above the 2000 rows",
    ],
)
def test_mistakes(outputs, message):
    assert message in outputs["02_your_own_pair"][0]


def test_long_runs(outputs):
    text = outputs["15_long_runs"][0]
    assert "stopped after 2 epochs: interrupted" in text
    assert "resumed with the same numbers: True" in text
    assert "in row 123 of the data" in text
    assert "skipped steps by epoch: [1, 1]" in text
    assert "3 epochs in the log" in text
    assert "the stream went on at 2,560 and is at 3,840" in text


def test_evaluation(outputs):
    text = outputs["09_evaluation"][0]
    (bound,) = numbers(r"ELBO (-[\d.]+) \+-", text)
    estimates = re.findall(r"K = +(\d+): (-[\d.]+) \+-", text)
    assert [int(count) for count, _ in estimates] == [1, 10, 100]
    values = [float(value) for _, value in estimates]
    assert bound - 0.2 < values[0] < values[1] < values[2]
    low, high, gap = numbers(r"between (-[\d.]+) and (-[\d.]+), gap (-?[\d.]+)", text)
    assert high - low == pytest.approx(gap, abs=0.02)
    before, after = numbers(r"amortization gap [\d.]+ nats: from (-[\d.]+) to (-[\d.]+)", text)
    assert after > before
    exact, sampled, error = numbers(
        r"exact (-[\d.]+), importance sampling (-[\d.]+) \+- ([\d.]+)", text
    )
    assert abs(exact - sampled) < 4 * error + 0.001


def test_gradients(outputs):
    text = outputs["03_reparameterization"][0]
    untrained, trained = (
        dict(re.findall(r"  ((?:score|path), .+?) +variance +([\d.]+)", part))
        for part in text.split("\ntrained, ")
    )
    names = list(untrained)
    assert len(names) == 7
    assert set(trained) == set(names)
    whole, none, average, left_out, a, b, stl = names
    for found in (untrained, trained):
        assert float(found[whole]) > 100 * float(found[none])
        assert float(found[none]) > 10 * max(float(found[average]), float(found[left_out]))
        assert float(found[left_out]) > 1.5 * float(found[a])
    assert float(untrained[a]) > 4 * float(untrained[b])
    assert float(trained[average]) > 2 * float(trained[left_out])
    assert float(trained[b]) > 2 * float(trained[stl])
    apart = re.findall(r"A and .+: ([\d.]+)", text)
    assert len(apart) == 3
    assert all(0.3 < float(ratio) < 3 for ratio in apart)
    for name in ("score, no baseline", "path, A: Monte Carlo", "path, STL"):
        (ratio,) = numbers(rf"{name} +L from 1 to 8: variance ([\d.]+) times", text)
        assert 4 < ratio < 16  # 8 in expectation
    trainings = re.findall(r"validation bound (-[\d.]+) after", text)
    assert float(trainings[0]) > float(trainings[-1]) + 1
    far, near = numbers(r"path, STL +variance ([\d.e+-]+) at .+, ([\d.e+-]+) at", text)
    assert far > 100 * near
    far, near = numbers(r"path, A: Monte Carlo +variance ([\d.e+-]+) at .+, ([\d.e+-]+) at", text)
    assert far < 4 * near


def test_helmholtz_machines(outputs):
    text = outputs["06_helmholtz_machines"][0]
    ends = {}
    for layers in ("one layer", "two layers"):
        for way in ("reparameterized bound", "wake-sleep"):
            ends[layers, way] = numbers(
                rf"{layers} +{way} +(-[\d.]+) nats .+ std of z1 in dreams ([\d.]+)", text
            )
    for layers in ("one layer", "two layers"):
        assert ends[layers, "reparameterized bound"][0] > ends[layers, "wake-sleep"][0] - 0.2
    spread = {key: value for key, (_, value) in ends.items()}
    assert spread["one layer", "wake-sleep"] == pytest.approx(1, abs=0.2)
    assert spread["two layers", "wake-sleep"] > 1.5 * spread["two layers", "reparameterized bound"]
    pairs = re.findall(r"(\S+) +test bound (-[\d.]+), log-likelihood (-[\d.]+)", text)
    assert [name for name, _, _ in pairs] == ["RWS", "VIMCO", "REINFORCE", "Concrete", "wake-sleep"]
    assert all(float(evidence) > float(bound) for _, bound, evidence in pairs)
    top = r" +bound -[\d.]+;.+ z3: ([\d.]+) nats"
    (bottom_up,) = numbers(rf"bottom-up{top}", text)
    (warm,) = numbers(rf"bottom-up, warm-up{top}", text)
    (ladder,) = numbers(rf"ladder{top}", text)
    assert bottom_up < warm < ladder
    within = [float(part) for part in re.findall(r"(\d+)% of the variance of pixels", text)]
    assert within == sorted(within, reverse=True)
    assert within[0] > within[2] + 20


@pytest.mark.parametrize("name", NAMES)
def test_public_names_only(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [getattr(node, "module", None) or alias.name for alias in node.names]
            assert not any(module.startswith("pvae.") for module in modules)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")


def test_speed(outputs):
    text = outputs["14_speed_and_scale"][0]
    assert "eager: all 20 steps are Pyro's own" in text
    assert "recorded since step 21: 20 of 40 steps replayed" in text
    eager, recorded = numbers(r"after the change: eager ([\d.]+), recorded ([\d.]+)", text)
    assert eager == pytest.approx(recorded, rel=1e-4)
    line = next(line for line in text.splitlines() if line.startswith("note:"))
    source = (FOLDER / "14_speed_and_scale.py").read_text().splitlines()
    (number,) = numbers(r"is read at .*14_speed_and_scale.py:(\d+) is seldom the same", line)
    assert "loc.abs().max().item()" in source[int(number) - 1]
