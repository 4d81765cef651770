"""What the latent codes of data say about their labels: probes, nearest and clusters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pvae.data import Rows, rows
from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.pair.posterior import marginals
from pvae.pair.predictive import infer

__all__ = ["ClassAccuracy", "Probe", "class_accuracy", "probe"]

_MOST = 10_000  # data that the probes are fitted to


@dataclass(frozen=True)
class Probe:
    """Accuracies of simple classifiers that read codes, between 0 and 1.

    Attributes:
        linear: of a logistic regression.
        nearest: of the most frequent label among the five nearest codes.
        sites: the sites whose codes were read.
        num_data: number of data that they were fitted to.

    Example:
        >>> Probe(linear=0.9, nearest=0.95, sites=("z",), num_data=100).linear
        0.9
    """

    linear: float
    nearest: float
    sites: tuple[str, ...]
    num_data: int

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        sites = list(self.sites)
        return {"linear": self.linear, "nearest": self.nearest, "sites": sites}


@dataclass(frozen=True)
class ClassAccuracy:
    """How classes of a latent site agree with labels, between 0 and 1.

    Attributes:
        site: the latent site.
        accuracy: share of data whose class is their label, if the classes are the labels.
        matched: the same after the best one-to-one assignment of classes to labels.

    Example:
        >>> ClassAccuracy(site="y", accuracy=0.1, matched=0.9).matched
        0.9
    """

    site: str
    accuracy: float
    matched: float

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {"site": self.site, "accuracy": self.accuracy, "matched": self.matched}


def probe(guide: Callable[..., object], train: object, test: object) -> Probe:
    """Accuracies of a logistic regression and of five nearest codes on the means of q(z | x).

    Args:
        guide: q(z | x).
        train: `Rows` with labels to fit the classifiers to: the first 10,000 at most.
        test: `Rows` with labels to classify.

    Returns:
        A `Probe`.

    Raises:
        UndefinedQuantityError: if data have no labels, or the guide has no continuous local site.

    Example:
        >>> import pvae
        >>> digits = pvae.data.load("digits")
        >>> guide = pvae.guides.MeanField(x_shape=(8, 8), z_dim=5)  # not trained
        >>> probe(guide, digits.train, digits.test).linear > 0.5
        True
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = [rows(data) for data in (train, test)]
    parts[0] = parts[0][: min(_MOST, len(parts[0]))]
    if any(part.labels is None for part in parts):
        raise UndefinedQuantityError("the data have no labels, so there is nothing to classify")
    codes = [_codes(guide, part) for part in parts]
    labels = [part.labels.cpu().numpy() for part in parts if part.labels is not None]
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = [
        float(classifier.fit(codes[0][1], labels[0]).score(codes[1][1], labels[1]))
        for classifier in (linear, KNeighborsClassifier(5))
    ]
    return Probe(scores[0], scores[1], codes[0][0], len(parts[0]))


def _codes(
    guide: Callable[..., object], data: Rows
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """The continuous local codes of data, side by side, (rows, numbers)."""
    found = {
        name: value.flatten(1).cpu()
        for name, value in infer(guide, data).items()
        if value.is_floating_point() and value.shape[:1] == (len(data),) and value.dim() > 1
    }
    if not found:
        raise UndefinedQuantityError("the guide has no continuous site with a value for each datum")
    return tuple(found), torch.cat(list(found.values()), 1).double().numpy()


def class_accuracy(
    model: Callable[..., object], guide: Callable[..., object], data: object
) -> ClassAccuracy:
    """How the most probable classes of an enumerated site agree with labels.

    Args:
        model: p(x, y, z).
        guide: q(y, z | x); labels that it is given are hidden from it (-1).
        data: `Rows` with labels.

    Returns:
        A `ClassAccuracy`: whether classes are labels, and after the best one-to-one assignment,
        which makes use of the labels and is for clusters found without them.

    Raises:
        UndefinedQuantityError: if data have no labels, or no local site is enumerated.

    Example:
        >>> import pvae
        >>> digits = pvae.data.load("digits")
        >>> model = pvae.models.GMVAE(x_shape=(8, 8), hidden=16)  # not trained
        >>> guide = pvae.guides.Classifier(x_shape=(8, 8), hidden=16)
        >>> class_accuracy(model, guide, digits.test).matched < 0.9
        True
    """
    from scipy.optimize import linear_sum_assignment

    source = rows(data)
    if source.labels is None:
        raise UndefinedQuantityError("the data have no labels to compare classes with")
    labels = source.labels
    hidden = source.without_labels()
    found = marginals(model, guide, hidden)
    local = {n: p for n, p in found.items() if p.shape[:1] == (len(source),) and p.dim() == 2}
    if not local:
        raise UndefinedQuantityError("no enumerated site has a class for each datum")
    site, probabilities = next(iter(local.items()))
    classes, labels = probabilities.argmax(-1).cpu(), labels.cpu()
    size = max(probabilities.shape[1], int(labels.max()) + 1)
    table = torch.zeros(size, size, dtype=torch.int64)
    table.index_put_((classes, labels), torch.ones_like(labels), accumulate=True)
    chosen = linear_sum_assignment(-table.numpy())
    matched = float(table.numpy()[chosen].sum()) / len(source)
    return ClassAccuracy(site, (classes == labels).double().mean().item(), matched)
