"""The page on objectives lists all of them, and its example trains."""

import re
from pathlib import Path

import torch
from pairs.recordable import PAIRS, X

import pvae
from pvae import objectives

PAGE = Path(objectives.__file__).parent / "README.md"


def test_table_lists_every_objective():
    rows = re.findall(r"^\| `(\w+)` \(`(\w+)`\) \|", PAGE.read_text(), re.MULTILINE)
    assert [(type(objectives.get(name)).__name__, name) for _, name in rows] == rows
    own = [n for n in objectives.names if isinstance(objectives.get(n), objectives.Objective)]
    assert [name for _, name in rows] == own


def test_limits_of_elbo_and_iwae():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    space = {}
    exec(code, space)
    torch.manual_seed(0)
    model, guide = PAIRS["gaussian hierarchy"]()

    def bound(objective):
        torch.manual_seed(1)
        return objective.per_datum(model, guide, X[:7])

    iwae, elbo = bound(objectives.IWAE(5)), bound(objectives.ELBO(5))
    torch.testing.assert_close(bound(space["Renyi"](5, alpha=0.0)), iwae)
    torch.testing.assert_close(bound(space["Renyi"](5, alpha=0.9999)), elbo, rtol=1e-2, atol=1e-2)
    fit = pvae.fit(model, guide, X, objective=space["Renyi"](), epochs=1, progress=False)
    assert not fit.notes
