"""Normalizing flows, which come from zuko; its import changes no setting of torch."""

import importlib
from typing import Any

from torch.distributions import Distribution

__all__ = ["zuko"]


def _imported() -> Any:
    # Zuko switches the validation of all of torch's distributions off.
    validated = Distribution._validate_args
    try:
        return importlib.import_module("zuko")
    finally:
        Distribution.set_default_validate_args(validated)


zuko = _imported()
"""The package."""
