"""Ways in which a step can change between two calls: the very next step follows them."""

import contextlib
import dataclasses
import math
from types import ModuleType, SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs.recordable import linear
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pvae
from pvae.engine.schedule import Schedule

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
BEFORE, AFTER = 5, 4  # steps; the change comes in between


class Trap:
    """A pair and a change of it.

    Args:
        loc: from the network and x to the location of x.
        change: changes what `loc` reads.
        around: a context of the steps after the change.
        batches: from the number of a step to its batch.
        wrap: from the model to the program that is trained.
    """

    def __init__(self, loc, change=None, *, around=None, batches=None, wrap=None):
        self.loc, self.change = loc, change or (lambda: None)
        self.around = around or contextlib.nullcontext
        self.batches = batches or (lambda number: X)
        self.wrap = wrap or (lambda model: model)

    def pair(self):
        self.net, loc_of = linear(3, 3), self.loc
        net = self.net

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(loc_of(net, x) + z, 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

        return self.wrap(model), guide


@dataclasses.dataclass
class Options:
    beta: float = 1.0


@dataclasses.dataclass(slots=True)
class Slotted:
    beta: float = 1.0


class Own:
    def __init__(self):
        self.inner = SimpleNamespace(options=Options())
        self.beta = 1.0
        self.table = {"beta": 1.0}


class Settings:
    beta = 1.0


def holding(value, read, change):
    """A trap whose location is multiplied by what `read` finds in a value."""
    return Trap(lambda net, x: net(x) * read(value), lambda: change(value))


def set_item(key, new):
    return lambda value: value.__setitem__(key, new)


def set_attribute(key, new):
    return lambda value: setattr(value, key, new)


def global_rebound():
    def loc(net, x):
        return net(x) * FACTOR

    return Trap(loc, lambda: globals().update(FACTOR=0.5))


FACTOR = 1.0


def closure_rebound():
    factor = 1.0

    def loc(net, x):
        return net(x) * factor

    def change():
        nonlocal factor
        factor = 0.5

    return Trap(loc, change)


def object_rebound():
    holder = SimpleNamespace(options=Options())
    return holding(holder, lambda h: h.options.beta, set_attribute("options", Options(0.5)))


def function_rebound():
    holder = SimpleNamespace(link=torch.sin)
    return Trap(lambda net, x: holder.link(net(x)), lambda: setattr(holder, "link", torch.cos))


def partial_argument():
    options = {"beta": 1.0}

    def loc(net, x, options=options):
        return net(x) * options["beta"]

    return Trap(loc, lambda: options.update(beta=0.5))


def module_attribute():
    dropout = nn.Dropout(0.2)

    def loc(net, x):
        return dropout(net(x))

    return Trap(loc, lambda: setattr(dropout, "p", 0.7))


def module_mode():
    dropout = nn.Dropout(0.5)
    return Trap(lambda net, x: dropout(net(x)), dropout.eval)


def submodule_replaced():
    layers = nn.Sequential(nn.Tanh(), nn.Tanh())
    return Trap(lambda net, x: layers(net(x)), lambda: layers.__setitem__(1, nn.ReLU()))


def parameter_frozen():
    trap = Trap(lambda net, x: net(x))
    trap.change = lambda: trap.net.weight.requires_grad_(False)
    return trap


def tensor_in_place():
    beta = torch.tensor(1.0)
    return Trap(lambda net, x: net(x) * beta, lambda: beta.fill_(0.5))


def handler_attribute():
    handler = poutine.scale(scale=1.0)
    return Trap(
        lambda net, x: net(x),
        lambda: setattr(handler, "scale", 0.5),
        wrap=lambda model: handler(model),
    )


def conditioned():
    data = {}
    return Trap(
        lambda net, x: net(x),
        lambda: data.update(w=torch.tensor(2.0)),
        wrap=lambda model: poutine.condition(with_global(model), data=data),
    )


def with_global(model):
    def program(x):
        pyro.sample("w", dist.Normal(0.0, 1.0), obs=None if HIDE else torch.tensor(1.0))
        return model(x)

    return program


HIDE = False


def viewed():
    """`view` fails for other strides in a recording that was made for contiguous rows."""
    transposed = torch.randn(3, 16, generator=torch.Generator().manual_seed(1)).t()

    def loc(net, x):
        flat = x.view(-1) if x.is_contiguous() else x.t().contiguous().view(-1)
        return net(flat.view(16, 3))

    return Trap(loc, batches=lambda number: X if number < BEFORE else transposed)


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def of_default_dtype(net, x):
    return net(x) * (0.5 if torch.ones(()).dtype is torch.float64 else 1.0)


def plain(net, x):
    return net(x)


def subclass_attribute():
    """Set on the object, it hides the attribute of its class."""
    holder = Settings()
    return Trap(lambda net, x: net(x) * holder.beta, lambda: setattr(holder, "beta", 0.5))


def module_class_attribute():
    class Scaled(nn.Module):
        beta = 1.0

        def forward(self, x):
            return x * self.beta

    scaled = Scaled()
    return Trap(lambda net, x: scaled(net(x)), lambda: setattr(scaled, "beta", 0.5))


def forward_replaced():
    trap = Trap(plain)

    def change():
        forward = trap.net.forward
        trap.net.forward = lambda x: 0.5 * forward(x)

    trap.change = change
    return trap


def hook():
    trap = Trap(plain)
    trap.change = lambda: trap.net.register_forward_hook(lambda net, given, out: 0.5 * out)
    return trap


def weight_replaced():
    trap = Trap(plain)
    trap.change = lambda: setattr(trap.net, "weight", nn.Parameter(0.5 * trap.net.weight.detach()))
    return trap


def of_a_module():
    MODULE.beta, MODULE.loc = 1.0, scaled_by_its_module
    return Trap(lambda net, x: MODULE.loc(net(x)), lambda: setattr(MODULE, "beta", 0.5))


def scaled_by_its_module(value):
    return value * MODULE.beta


MODULE = ModuleType("of_the_user")


def named_beta(value):
    name = "beta"
    return getattr(value, name)


TRAPS = {
    "dict": lambda: holding({"beta": 1.0}, lambda v: v["beta"], set_item("beta", 0.5)),
    "list": lambda: holding([1.0], lambda v: v[0], set_item(0, 0.5)),
    "set": lambda: holding({1.0}, max, lambda v: v.add(2.0)),
    "array": lambda: holding(np.ones(3), lambda v: float(v.sum()), set_item(1, 0.5)),
    "namespace": lambda: holding(
        SimpleNamespace(beta=1.0), lambda v: v.beta, set_attribute("beta", 0.5)
    ),
    "dataclass": lambda: holding(Options(), lambda v: v.beta, set_attribute("beta", 0.5)),
    "slots": lambda: holding(Slotted(), lambda v: v.beta, set_attribute("beta", 0.5)),
    "nested": lambda: holding(
        {"a": ({"b": [1.0]},)},
        lambda v: v["a"][0]["b"][0],
        lambda v: v["a"][0]["b"].__setitem__(0, 0.5),
    ),
    "nested object": lambda: holding(
        Own(), lambda v: v.inner.options.beta, lambda v: setattr(v.inner.options, "beta", 0.5)
    ),
    "own object": lambda: holding(Own(), lambda v: v.beta, set_attribute("beta", 0.5)),
    "dict of an object": lambda: holding(
        Own(), lambda v: v.table["beta"], lambda v: v.table.update(beta=0.5)
    ),
    "getattr": lambda: holding(Own(), named_beta, set_attribute("beta", 0.5)),
    "tensor replaced in a dict": lambda: holding(
        {"beta": torch.tensor(1.0)}, lambda v: v["beta"], set_item("beta", torch.tensor(0.5))
    ),
    "tensor replaced in a list": lambda: holding(
        [torch.tensor(1.0)], lambda v: v[0], set_item(0, torch.tensor(0.5))
    ),
    "tensor replaced in an object": lambda: holding(
        SimpleNamespace(beta=torch.tensor(1.0)),
        lambda v: v.beta,
        set_attribute("beta", torch.tensor(0.5)),
    ),
    "tensor in place": tensor_in_place,
    "global": global_rebound,
    "closure": closure_rebound,
    "object replaced": object_rebound,
    "function replaced": function_rebound,
    "default argument": partial_argument,
    "module attribute": module_attribute,
    "module mode": module_mode,
    "submodule": submodule_replaced,
    "frozen parameter": parameter_frozen,
    "handler attribute": handler_attribute,
    "condition": conditioned,
    "scale around": lambda: Trap(plain, around=lambda: poutine.scale(scale=0.5)),
    "mask around": lambda: Trap(plain, around=lambda: poutine.mask(mask=torch.arange(16) < 4)),
    "block around": lambda: Trap(plain, around=lambda: poutine.block(hide=["w"])),
    "do around": lambda: Trap(plain, around=lambda: poutine.do(data={"z": torch.zeros(16, 3)})),
    "infer_config around": lambda: Trap(
        plain, around=lambda: poutine.infer_config(config_fn=lambda site: {"is_auxiliary": False})
    ),
    "strides": viewed,
    "autocast around": lambda: Trap(
        plain, around=lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    ),
    "default dtype": lambda: Trap(of_default_dtype, around=default_dtype),
    "deterministic": lambda: Trap(plain, around=deterministic),
}


def losses(make, engine):
    """The losses of each step, with a change after the first ones."""
    globals()["FACTOR"], Settings.beta = 1.0, 1.0
    pyro.set_rng_seed(0)
    trap = make()
    with pyro.get_param_store().scope():
        optim = pyro.optim.SGD({"lr": 1e-3})
        pair = trap.pair()
        if engine is None:
            svi = pyro.infer.SVI(*pair, optim, Trace_ELBO())
        else:
            svi = pvae.SVI(*pair, optim, Trace_ELBO(), engine=engine)
        pyro.set_rng_seed(1)
        found = [svi.step(trap.batches(number)) for number in range(BEFORE)]
        trap.change()
        with trap.around():
            found += [svi.step(trap.batches(BEFORE + number)) for number in range(AFTER)]
    return found, svi


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Record early, and never verify a recording again, so that nothing but the key counts."""
    schedules = pvae.engine.schedule.SCHEDULES
    monkeypatch.setitem(schedules, "auto", Schedule(record=2, compile=math.inf))
    monkeypatch.setattr(
        pvae.engine.replay.Replay, "_due", lambda self, entry, variant, n: not variant.verified
    )
    monkeypatch.setattr(pvae.svi, "SCHEDULES", schedules)


QUICK = {"dict", "strides", "scale around"}
ENGINES = [
    pytest.param(name, engine, id=f"{name}, {engine}", marks=marks)
    for name in TRAPS
    for engine in ("recorded", "auto", "captured")
    for marks in [() if engine != "captured" or name in QUICK else pytest.mark.slow]
]


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_next_step_follows(name, engine):
    wanted, _ = losses(TRAPS[name], None)
    got, svi = losses(TRAPS[name], engine)
    assert got == pytest.approx(wanted, rel=1e-5 if engine == "captured" else 1e-6)
    assert svi.replay.replayed >= BEFORE - 2
