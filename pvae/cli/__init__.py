"""The command `pvae`: train, evaluate, sample, infer, check, bench, list."""

from pvae.cli import pairs, runs, train
from pvae.cli.group import main

__all__ = ["main", "pairs", "runs", "train"]
