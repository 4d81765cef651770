"""The documentation's pages are complete, and the code in the how-to guides runs."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import pvae
from pvae import cli, zoo
from pvae.cli.invocation import completed, pair_and_data

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
    build.compose(source, source / "pictures")
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


def test_zoo_has_a_page_for_each_model_and_guide(build, pages):
    for role in ("model", "guide"):
        for entry in zoo.entries(role):
            text = (pages / "zoo" / f"{role}s_{entry.name}.rst").read_text()
            assert build.zoo_entries()[f"{role}s_{entry.name}"]["figure"] in build.CAPTIONS
            for part in ("**When to use it.** ", "**What it cannot do.** ", "pvae train "):
                assert part in text


def test_commands_of_the_zoo_build_their_pair(build, monkeypatch):
    monkeypatch.delenv("PVAE_DATA", raising=False)
    train = cli.main.commands["train"]
    for page, entry in build.zoo_entries().items():
        program, verb, *options = entry["command"].split()
        assert (program, verb) == ("pvae", "train"), page
        given = completed(train.make_context("train", options).params)
        kind, _, name = page.partition("_")
        assert given[kind.removesuffix("s")] == name
        if given["data_name"] == "digits":  # the others need files
            pair_and_data(given)


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


# With Sphinx, MathJax and a browser, as CONTRIBUTING.md installs them


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The built pages, without the output of the tutorials."""
    if importlib.util.find_spec("myst_nb") is None:
        pytest.skip("myst_nb is not installed")
    if not (SITE / "node_modules" / "mathjax").exists():
        pytest.skip("MathJax is not in tutorials/site/node_modules")
    out = tmp_path_factory.mktemp("build")
    command = [sys.executable, str(SITE / "build.py"), "--no-execute", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # warnings are errors
    return out / "html"


@pytest.mark.slow
def test_links_and_pictures_of_the_built_pages(html):
    for page in html.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#]+)[^"]*"', page.read_text()):
            if not re.match(r"[a-z]+:", target):
                where = Path(os.path.normpath(page.parent / target.partition("?")[0]))
                assert where.exists(), (page, target)


@pytest.mark.slow
def test_mathematics_in_a_browser(html):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium")
    handler = functools.partial(QuietHandler, directory=str(html))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for page, formulas in (("index.html", 3), ("explanation/bounds.html", 5)):
            done = subprocess.run(
                [browser, "--headless", "--no-sandbox", "--disable-gpu",
                 "--virtual-time-budget=8000", "--dump-dom",
                 f"http://127.0.0.1:{server.server_address[1]}/{page}"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert done.stdout.count("<mjx-container") >= formulas, page
            assert "<mjx-merror" not in done.stdout
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
