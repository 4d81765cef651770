"""Build the documentation: tutorials with their output, how-to guides, explanations, reference.

    npm install --prefix tutorials/site mathjax@3
    python tutorials/site/build.py [--full] [--out FOLDER]

The tutorials are executed in their short form, or with `--full` in the form that a reader runs.
The commands of the zoo are executed as well, for the pictures of its pages; those whose data are
only in $PVAE_DATA have none without it. All of this is cached. The build downloads nothing, and
neither do its pages: they have a copy of MathJax.
"""

import argparse
import importlib
import inspect
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pvae
from pvae import zoo

HERE = Path(__file__).parent
TUTORIALS = HERE.parent
_NOT_PAGES = shutil.ignore_patterns(
    "_build", "__pycache__", "node_modules", "*.json", "*.toml", "build.py"
)
PACKAGES = (
    "pvae", "pvae.data", "pvae.evaluation", "pvae.likelihoods", "pvae.nn", "pvae.objectives",
    "pvae.plots", "pvae.priors", "pvae.models", "pvae.guides",
)  # fmt: skip


def public_names(package: str) -> dict[str, object]:
    """The public objects of a package by name, without modules."""
    module = importlib.import_module(package)
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def summary(thing: object) -> str:
    """The first paragraph of a docstring; what a value is, if it has none of its own."""
    if isinstance(thing, tuple):
        return ", ".join(map(str, thing))
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   language_info:
#     name: python
#     pygments_lexer: ipython3
# ---
"""


def write_reference(folder: Path) -> None:
    """A page for each public name, and a table for each package."""
    folder.mkdir()
    seen: set[int] = set()
    packages = []
    for package in PACKAGES:
        names = public_names(package)
        if not names:
            continue
        packages.append(package)
        rows = []
        for name, value in names.items():
            kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
            page = f"{package}.{name}"
            rows.append(f"   * - :doc:`{name} <{page}>`\n     - {escaped(summary(value))}")
            options = "   :members:\n   :show-inheritance:\n" if kind == "class" else ""
            options += "   :no-index:\n" if id(value) in seen else ""
            seen.add(id(value))
            title = f"{page}\n{'=' * len(page)}"
            text = f"{title}\n\n.. auto{kind}:: {page}\n{options}\n"
            (folder / f"{page}.rst").write_text(":orphan:\n\n" + text)
        about = escaped(summary(importlib.import_module(package)))
        text = f"{package}\n{'=' * len(package)}\n\n{about}\n\n"
        text += ".. list-table::\n   :widths: 30 70\n\n" + "\n".join(rows) + "\n"
        (folder / f"{package}.rst").write_text(text)
    toctree = ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in packages)
    title = (
        "Reference\n=========\n\nEvery public name, with shapes, units, errors and an example.\n\n"
    )
    (folder / "index.rst").write_text(title + toctree)


def escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("_ ", r"\_ ")


CAPTIONS = {
    "by_label": "Means of p(x | z, y) for each label",
    "latent_means": "Means of q(z | x) of held-out data",
    "learning_curve": "The bound over the epochs",
    "reconstructions": "Held-out data above their reconstructions",
    "samples": "Means of p(x | z) at draws from the prior",
}


def zoo_entries() -> dict[str, dict[str, str]]:
    """The text of each model and guide, by its page."""
    with (HERE / "zoo.toml").open("rb") as file:
        known = tomllib.load(file)
    return {f"{kind}_{name}": entry for kind in known for name, entry in known[kind].items()}


def draw_zoo(folder: Path) -> None:
    """Run the command of each page, and keep the figure that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, entry in zoo_entries().items():
        picture, made_by = folder / f"{page}.png", folder / f"{page}.txt"
        recipe = f"{entry['command']}: {entry['figure']}"
        if picture.exists() and made_by.read_text() == recipe:
            continue
        out = folder / page
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", *shlex.split(entry["command"])]
        command += ["--no-progress", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "PVAE_DATA" in done.stderr:
            print(f"no picture for {page}: {done.stderr.strip()}")
            continue
        if done.returncode:
            raise SystemExit(f"{entry['command']}: {done.stderr}")
        shutil.copy(out / "figures" / f"{entry['figure']}.png", picture)
        shutil.rmtree(out)
        made_by.write_text(recipe)


def write_zoo(folder: Path, pictures: Path) -> None:
    """A page for each model and guide, by one template, with its picture if there is one."""
    folder.mkdir()
    known = zoo_entries()
    lists = {}
    for kind, module in (("models", pvae.models), ("guides", pvae.guides)):
        lists[kind] = []
        for found in zoo.entries(kind.removesuffix("s")):
            name, thing = found.name, found.cls
            page = f"{kind}_{name}"
            lists[kind].append(page)
            entry = known[page]
            picture = ""
            if (pictures / f"{page}.png").exists():
                shutil.copy(pictures / f"{page}.png", folder)
                what = CAPTIONS[entry["figure"]]
                picture = (
                    f".. figure:: {page}.png\n   :alt: {what}\n\n   {what}, after this command.\n\n"
                )
            title = f"{name}: {thing.__name__}"
            text = (
                f"{title}\n{'=' * len(title)}\n\n{escaped(summary(thing))}\n\n"
                f"**When to use it.** {escaped(entry['when'])}\n\n"
                f"**What it cannot do.** {escaped(entry['cannot'])}\n\n"
                f".. code-block:: sh\n\n   {entry['command']}\n\n{picture}"
                f".. autoclass:: {module.__name__}.{thing.__name__}\n   :no-index:\n"
            )
            (folder / f"{page}.rst").write_text(text)
    about = "Models and guides are short Pyro programs, to use as they are or to copy."
    text = f"The zoo\n=======\n\n{about}\n"
    for kind, pages in lists.items():
        text += f"\n{kind}\n{'-' * len(kind)}\n\n.. toctree::\n   :maxdepth: 1\n\n"
        text += "".join(f"   {page}\n" for page in pages)
    (folder / "index.rst").write_text(text)


def write_tutorials(folder: Path) -> None:
    """The scripts without their docstrings, which repeat their titles."""
    folder.mkdir()
    names = []
    for path in sorted(TUTORIALS.glob("[0-9]*.py")):
        _, _, rest = path.read_text().partition('"""\n')
        (folder / path.name).write_text(HEADER + rest.lstrip())
        names.append(path.stem)
    entries = "\n".join(names)
    (folder / "index.md").write_text(
        "# Tutorials\n\nThey build on one another. Each is a plain Python script, "
        "`tutorials/NAME.py`; what\nyou see below each cell is what it printed and drew when this "
        f"page was made.\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )


def compose(source: Path, pictures: Path) -> None:
    """Write all pages into a folder, with the pictures of the zoo that are there."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=_NOT_PAGES)
    write_tutorials(source / "tutorials")
    write_reference(source / "reference")
    write_zoo(source / "zoo", pictures)
    (source / "_static").mkdir()


def copy_mathjax(folder: Path) -> None:
    """Copy what the pages need of MathJax: one script and its fonts."""
    package = HERE / "node_modules" / "mathjax" / "es5"
    if not package.exists():
        raise SystemExit("MathJax is not there: npm install --prefix tutorials/site mathjax@3")
    folder.mkdir()
    shutil.copy(package / "tex-chtml.js", folder)
    fonts = Path("output", "chtml", "fonts")
    shutil.copytree(package / fonts, folder / fonts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="execute the tutorials in full")
    parser.add_argument(
        "--no-execute", action="store_true", help="show the tutorials without output"
    )
    parser.add_argument("--out", type=Path, default=HERE / "_build")
    options = parser.parse_args()
    source = options.out / "source"
    pictures = options.out / "pictures"
    if not options.no_execute:
        draw_zoo(pictures)
    compose(source, pictures)
    copy_mathjax(source / "_static" / "mathjax")
    environment = {**os.environ, "PVAE_SHORT": "0" if options.full else "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html"]
    if options.no_execute:
        command += ["-D", "nb_execution_mode=off"]
    command += [str(source), str(options.out / "html")]
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
