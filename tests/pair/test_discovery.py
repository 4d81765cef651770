import functools

import pytest
from torch import nn

from pvae.pair.discovery import reach

net = nn.Linear(1, 1)
shared = {"deep": [nn.Linear(1, 1)]}


def by_global(x):
    return net(x)


def by_lambda(x):
    return (lambda: net(x))()


def by_container(x):
    return shared["deep"][0](x)


def by_other_function(x):
    return by_global(x)


def by_closure():
    inner = net

    def program(x):
        return inner(x)

    return program


def with_argument(network, x):
    return network(x)


def with_default(x, *, network=net):
    return network(x)


class Plain:
    """A plain object with a network as attribute."""

    def __init__(self):
        self.held = net

    def program(self, x):
        return self.held(x)

    def __call__(self, x):
        return self.held(x)


class Itself(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(1, 1)

    def forward(self, x):
        return net(self.part(x))


@functools.wraps(by_global)
def decorated(x):
    return by_global(x)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (by_global, "net"),
        (by_lambda, "net"),
        (by_other_function, "net"),
        (by_closure(), "inner"),
        (functools.partial(with_argument, net), "partial.0"),
        (with_default, "default.network"),
        (Plain().program, "model.held"),
        (Plain(), "held"),
        (decorated, "net"),
    ],
)
def test_networks_in_program(program, name):
    assert reach({"model": program}, nn.Module) == [(name, net)]


def test_containers():
    assert reach({"model": by_container}, nn.Module) == [("shared.deep.0", shared["deep"][0])]


def test_network_as_program():
    program = Itself()
    found = reach({"model": program, "guide": program.forward}, nn.Module)
    assert found == [("model", program), ("net", net)]


def test_unnamed_objects_ignored():
    assert reach({"model": lambda x: x}, nn.Module) == []


class Holder(nn.Module):
    """Holds a network that is no submodule, and a second reference to a submodule."""

    def __init__(self, other):
        super().__init__()
        self.part = nn.Linear(1, 1)
        self.others = (other, self.part)

    def forward(self, x):
        return self.others[0](self.part(x))


def test_network_hidden_in_network():
    other = nn.Linear(1, 1)
    holder = Holder(other)
    found = [("guide", holder), ("guide.others.0", other)]
    assert reach({"guide": holder}, nn.Module) == found
    assert reach({"guide": nn.Sequential(holder)}, nn.Module)[1:] == found[1:]
    assert reach({"model": other, "guide": holder}, nn.Module) == [
        ("model", other),
        ("guide", holder),
    ]
