"""The documentation's pages are complete, and the code in the how-to guides runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pvae
from pvae import zoo

SITE = Path(__file__).parents[1] / "tutorials" / "site"
HOW_TO = sorted(path.name for path in (SITE / "howto").glob("*.md") if path.name != "index.md")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("site_build", SITE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(build, tmp_path_factory):
    source = tmp_path_factory.mktemp("site") / "source"
    build.compose(source)
    return source


def blocks(page, language):
    text = (SITE / "howto" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", HOW_TO)
def test_code_of_how_to_guides(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in HOW_TO if blocks(page, "sh")])
def test_commands_of_how_to_guides(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), names)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_six_tasks_have_a_page():
    assert len(HOW_TO) == 6
    index = (SITE / "howto" / "index.md").read_text()
    assert all(f"\n{page.removesuffix('.md')}\n" in index for page in HOW_TO)


def test_reference_has_a_page_for_each_public_name(build, pages):
    wanted = {
        f"{package}.{name}" for package in build.PACKAGES for name in build.public_names(package)
    }
    found = {path.stem for path in (pages / "reference").glob("pvae*.*.rst")}
    assert wanted <= found
    assert "pvae.SVI" in wanted
    assert set(pvae.__all__) - {name.removeprefix("pvae.") for name in wanted} == {
        "data", "evaluation", "guides", "likelihoods", "models", "nn", "objectives", "plots",
        "priors",
    }  # fmt: skip


def test_zoo_has_a_page_for_each_model_and_guide(pages):
    for role in ("model", "guide"):
        for entry in zoo.entries(role):
            text = (pages / "zoo" / f"{role}s_{entry.name}.rst").read_text()
            for part in ("**When to use it.** ", "**What it cannot do.** ", "pvae train "):
                assert part in text


def test_links_lead_somewhere(pages):
    files = [str(path.relative_to(pages)) for path in pages.rglob("*.*")]
    known = {name.rpartition(".")[0] for name in files}  # names of packages have dots of their own
    for path in pages.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            where = os.path.normpath(path.relative_to(pages).parent / target)
            assert where in known, (path, target)


def test_tutorials_are_pages_without_their_docstrings(pages):
    names = sorted(path.stem for path in (pages / "tutorials").glob("*.py"))
    assert names == sorted(path.stem for path in SITE.parent.glob("[0-9]*.py"))
    for name in names:
        first = (pages / "tutorials" / f"{name}.py").read_text().partition("# ---\n# %% ")[2]
        assert first.startswith("[markdown]\n# # "), name
        assert f"\n{name}\n" in (pages / "tutorials" / "index.md").read_text()
