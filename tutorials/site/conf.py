"""Sphinx's settings for the documentation; `build.py` composes its pages and calls it."""

import importlib.metadata
import re

project, release = "pvae", importlib.metadata.version("pvae-ppl")
copyright = "the authors of pvae"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"pvae {release}"
html_static_path = ["_static"]
mathjax_path = "mathjax/tex-chtml.js"  # a copy, so that the pages need no network
myst_enable_extensions = ["dollarmath"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_timeout = 3600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars and warnings about them
default_role = "code"
suppress_warnings = ["ref.python"]  # `rows` in a docstring is a shape, not an attribute
autodoc_typehints = "none"  # they stand in the signature's prose, with shapes and units
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Defaults", "notes_style")]
exclude_patterns = ["conf.py", "**/figures"]

_CODE = re.compile(r"(`[^`]*`)")


def _escape(app, what, name, obj, options, lines):
    """Let `|`, `*` and `_` in the prose of docstrings be themselves."""
    example = False
    for place, line in enumerate(lines):
        if re.match(r"\s*(Example|Examples):\s*$", line):
            example = True
        elif line and not line.startswith(" "):
            example = False
        if example or line.lstrip().startswith((">>>", "...", "|", "+-")):
            continue
        parts = _CODE.split(line)
        parts[::2] = [re.sub(r"([|*]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        lines[place] = "".join(parts)


def setup(app):
    """Connect the handler, before napoleon's."""
    app.connect("autodoc-process-docstring", _escape, priority=400)
