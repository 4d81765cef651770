"""Probes of codes and accuracies of classes, on codes whose answer is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.evaluation import class_accuracy, probe


def clusters(shuffled):
    """Three kinds of data far apart; classes are their kinds, in another order if shuffled."""
    y = torch.arange(90) % 3
    x = torch.eye(3)[y] * 5 + 0.1 * torch.randn(90, 3)
    order = torch.tensor([2, 0, 1]) if shuffled else torch.arange(3)

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = torch.eye(3)[k] * 5 + 0 * z[..., :1]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.Categorical(logits=10 * x[:, order])
            pyro.sample("y", fn, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    return model, guide, pvae.data.Rows(x, labels=y)


def test_classes_that_are_labels():
    found = class_accuracy(*clusters(shuffled=False))
    assert (found.site, found.accuracy, found.matched) == ("y", 1.0, 1.0)


def test_clusters_are_matched():
    found = class_accuracy(*clusters(shuffled=True))
    assert (found.accuracy, found.matched) == (0.0, 1.0)


def test_probe():
    _, guide, rows = clusters(shuffled=False)
    found = probe(guide, rows, rows)
    assert (found.linear, found.nearest, found.sites) == (1.0, 1.0, ("z",))
    noise = pvae.data.Rows(rows.first(90)[0], labels=torch.randint(0, 2, (90,)))
    assert probe(guide, noise, noise).linear < 0.8


def test_without_labels_or_classes():
    model, guide, rows = clusters(shuffled=False)
    unlabelled = pvae.data.Rows(rows.first(90)[0])
    for measure in (lambda: class_accuracy(model, guide, unlabelled),
                    lambda: probe(guide, unlabelled, rows)):  # fmt: skip
        with pytest.raises(pvae.UndefinedQuantityError, match="no labels"):
            measure()
