"""README and the pages it links to: length, links, numbers, and the example."""

import json
import re
from pathlib import Path

import pytest
from pairs.kinds import KINDS

import pvae
from pvae import zoo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "models/README.md",
    "pvae/objectives/README.md",
    "tests/benchmarks/README.md",
]


def test_length():
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not link.startswith("https://"):
            assert ((ROOT / page).parent / link).exists(), link


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    assert "epochs=100" in code
    exec(code.replace("epochs=100", "epochs=2"), {})
    assert "Bound(mean=" in capsys.readouterr().out
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000


def test_speed():
    results = json.loads((RESULTS / "steps_cpu.json").read_text())["results"]
    ratios = [r["ratios"]["pvae captured / by hand, compiled"]["median"] for r in results]
    *first, last = [f"{ratio:.2f}" for ratio in ratios]
    assert f"{', '.join(first)} and {last} times as long" in " ".join(README.split())


def test_whole_trainings():
    seconds = json.loads((RESULTS / "whole_fits_cpu.json").read_text())["seconds"]

    def ratio(where, way):
        return f"{seconds[where][way][0] / seconds[where]['NumPyro'][0]:.2f}"

    alone, beside = (ratio(where, "pvae, captured") for where in seconds)
    auto = ratio("beside a busy process", "pvae, captured, --threads auto")
    assert (
        f"{alone} times as long as NumPyro's, and {beside} beside a busy process ({auto} with"
        in README
    )


def test_counts():
    digits = pvae.data.load("digits")
    total = sum(map(len, (digits.train, digits.valid, digits.test)))
    assert f"{total:,} handwritten digits" in README
    words = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
    ]
    models, guides = (words[len(zoo.entries(role))] for role in ("model", "guide"))
    likelihoods = words[len(pvae.likelihoods.names)]
    assert f"{len(KINDS)} kinds of pairs" in README
    assert f"{len(KINDS)} kinds" in (ROOT / "CONTRIBUTING.md").read_text()
    priors = words[len(pvae.priors.names)]
    assert f"{models} models, {guides} guides, {priors} priors and {likelihoods} likeli" in README


def test_names():
    """Every `pvae.name` and measure that README mentions exists."""
    for dotted in re.findall(r"`pvae\.([a-zA-Z_.]+)`?", README):
        value = pvae
        for name in dotted.rstrip(".").split("."):
            value = getattr(value, name)
    for row in re.findall(r"^\| (`[^|]+`) \| (?:lower|upper|what|simul|cost)", README, re.M):
        for name in re.findall(r"`([\w.]+)`", row):
            name = name.removeprefix("evaluation.")
            assert hasattr(pvae, name) or hasattr(pvae.evaluation, name), name
