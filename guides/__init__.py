"""Recognition networks: q(z | x) as Pyro programs, one variational family a file."""

if __name__ != "pvae.guides":
    raise ImportError(
        f"this package was imported as {__name__!r}; it is part of pvae: install pvae, and "
        "write `from pvae.guides import MeanField`"
    )

from pvae.guides.bottom_up import BottomUp
from pvae.guides.classifier import Classifier
from pvae.guides.clusters import Clusters
from pvae.guides.combiner import Combiner
from pvae.guides.conditional import Conditional
from pvae.guides.flow import Flow
from pvae.guides.full_rank import FullRank
from pvae.guides.ladder import Ladder
from pvae.guides.low_rank import LowRank
from pvae.guides.mean_field import MeanField
from pvae.guides.mixture import Mixture
from pvae.guides.per_datum import PerDatum
from pvae.guides.point import Point
from pvae.guides.tabular import Tabular
from pvae.guides.weights import Weights

__all__ = [
    "BottomUp",
    "Classifier",
    "Clusters",
    "Combiner",
    "Conditional",
    "Flow",
    "FullRank",
    "Ladder",
    "LowRank",
    "MeanField",
    "Mixture",
    "PerDatum",
    "Point",
    "Tabular",
    "Weights",
]
