"""Examine pairs of every kind: does what Pyro trains, train here, with the same losses?

    python tests/any_pair.py [KIND ...]

Print a table with a line per kind: the largest relative difference of a loss from Pyro's over 260
steps by "auto" and "recorded" and over 30 by "captured", how many of the 260 steps of "recorded"
were replayed, and what failed of check, fit, elbo, load and resume. Takes about twenty minutes.
"""

import contextlib
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pyro
from pairs.kinds import BATCH, KINDS

import pvae

TOLERANCES = {"auto": 1e-6, "recorded": 1e-6, "captured": 1e-4}
STEPS = {"auto": 260, "recorded": 260, "captured": 30}


@dataclass
class Row:
    """What was found about one kind of pair.

    Attributes:
        kind: its name.
        differences: largest relative difference of a loss from Pyro's, keyed by engine.
        replayed: number of replayed steps, keyed by engine.
        notes: why steps were not replayed.
        failures: what failed, in sentences.
    """

    kind: str
    differences: dict[str, float] = field(default_factory=dict)
    replayed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def line(self, steps=STEPS):
        cells = [f"{self.differences[e]:.0e}" if e in self.differences else "" for e in steps]
        replayed = f"{self.replayed.get('recorded', 0)}/{steps['recorded']}"
        said = "; ".join(self.failures + self.notes)
        return f"{self.kind:30} {cells[0]:>7} {cells[1]:>9} {cells[2]:>9} {replayed:>9}  {said}"


def train(make, steps, engine=None):
    """Losses of a pair under fixed seeds, by Pyro's SVI (engine None) or by pvae's."""
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        kind = make()
        optim = pyro.optim.SGD({"lr": 1e-4})
        if engine is None:
            svi = pyro.infer.SVI(kind.model, kind.guide, optim, kind.objective())
        else:
            svi = pvae.SVI(kind.model, kind.guide, optim, kind.objective(), engine=engine)
        pyro.set_rng_seed(1)
        losses = []
        for number in range(steps):
            start = number * BATCH % len(kind.data[0])
            losses.append(svi.step(*(part[start : start + BATCH] for part in kind.data)))
    return losses, svi


def compare(row, make, steps):
    """Compare the losses with Pyro's; `steps` is keyed by engine."""
    wanted, _ = train(make, max(steps.values()))
    for engine, count in steps.items():
        got, svi = train(make, count, engine)
        far = [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(got, wanted, strict=False)]
        row.differences[engine] = max(far)
        row.replayed[engine] = svi.replay.replayed
        row.notes += [note for note in svi.notes if note not in row.notes]
        if max(far) > TOLERANCES[engine]:
            first = next(n for n, value in enumerate(far) if value > TOLERANCES[engine])
            row.failures.append(f"{engine}: another loss from step {first} on")


@contextlib.contextmanager
def noted(row, what):
    try:
        yield
    except Exception as error:  # noqa: BLE001 (a table shows all of them)
        row.failures.append(f"{what}: {type(error).__name__}: {str(error).splitlines()[:1]}")


def use(row, make, engine="recorded"):
    """Check the pair, train it with validation, evaluate, load and resume it."""
    pyro.set_rng_seed(0)
    kind = make()
    data = kind.data if len(kind.data) > 1 else kind.data[0]
    with noted(row, "check"):
        batch = [part[:BATCH] for part in kind.data]
        pvae.check(kind.model, kind.guide, *batch, objective=kind.objective())
    with tempfile.TemporaryDirectory() as folder, noted(row, "fit"):
        run = Path(folder) / "run"
        common = {"batch_size": BATCH, "valid": data, "progress": False, "engine": engine}

        def fit(kind, **options):
            options |= common | {"objective": kind.objective(), "out": run}
            return pvae.fit(kind.model, kind.guide, data, **options)

        trained = fit(kind, epochs=2)
        again = make()
        loaded = pvae.load(run, model=again.model, guide=again.guide)
        bounds = [pvae.elbo(one.model, one.guide, data).mean for one in (trained, loaded)]
        if abs(bounds[1] - bounds[0]) > 1e-4 * abs(bounds[0]):
            row.failures.append(f"load: {bounds[1]} instead of {bounds[0]}")
        fit(make(), epochs=3, resume=True)


def examine(name, steps=STEPS):
    """Everything about one kind."""
    row = Row(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with noted(row, "steps"):
            compare(row, KINDS[name], steps)
        use(row, KINDS[name])
    return row


if __name__ == "__main__":
    print(f"{'kind':30} {'auto':>7} {'recorded':>9} {'captured':>9} {'replayed':>9}")
    rows = []
    for name in sys.argv[1:] or KINDS:
        rows.append(examine(name))
        print(rows[-1].line(), flush=True)
    right = [row for row in rows if not row.failures]
    followed = [row for row in rows if row.replayed.get("recorded", 0) > 100]
    print(f"{len(rows)} kinds: {len(right)} without a failure, {len(followed)} replayed")
