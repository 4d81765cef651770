"""Every objective and measure on pairs whose answers are known: `python tests/exact/table.py`.

Prints estimate, exact value, error and z of each, in nats per datum. `--long` takes ten times the
draws; names of families limit the table to them.
"""

import argparse
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from exact.case import Row

FAMILIES = (
    "gaussians",
    "layers",
    "relaxations",
    "point_masses",
    "scales",
    "masks",
    "subsampling",
    "mixtures",
    "encoders",
    "impossible",
    "code_lengths",
    "global_sites",
)


def rows_of(family: str, effort: int = 1) -> Iterator[Row]:
    """The rows of one family; `effort` multiplies the draws."""
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield from importlib.import_module(f"exact.families.{family}").rows(effort)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 if a |z| is above 4."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--long", action="store_true", help="take ten times the draws")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    print(f"{'pair':46}{'quantity':30}{'estimate':>11}{'exact':>11}{'error':>10}{'z':>7}")
    pairs, zs = set(), []
    for family in given.families or FAMILIES:
        for row in rows_of(family, 10 if given.long else 1):
            pairs.add(row.pair)
            zs.append(abs(row.z))
            numbers = f"{row.estimate:11.5f}{row.exact:11.5f}{row.error:10.2g}{row.z:7.2f}"
            print(f"{row.pair:46}{row.quantity:30}{numbers}", flush=True)
    far = sum(z > 4 for z in zs)
    print(f"{len(zs)} numbers of {len(pairs)} pairs; largest |z| {max(zs):.2f}; {far} above 4")
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())
