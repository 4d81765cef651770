"""Modules, parameters and store scope of a model/guide pair: one class, which owns them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pvae.data import Rows, rows
from pvae.pair.constraints import constraint_from_plain, constraint_to_plain
from pvae.pair.discovery import reach
from pvae.pair.preserve import preserve_generators, preserve_tensors
from pvae.pair.program import Program
from pvae.pair.registration import Registrations, register
from pvae.pair.traces import paired_traces

__all__ = ["Pair", "pair_of", "rows_on_device"]


class Pair:
    """The networks, parameters and parameter-store scope of a model and a guide.

    Its networks are all `nn.Module`s that are the callables themselves or their `__self__`, are
    reachable from the functions' closures and globals, or are passed to `pyro.module` while the
    programs run. Its parameters are those of the networks and those that `pyro.param` makes.
    Networks are trained in place, as in PyTorch.

    Args:
        model: the model as the user wrote it.
        guide: the guide as the user wrote it.

    Attributes:
        data_size: number of data that it was trained on, if known.
        levels: number of grey levels of uint8 data that it was trained on, if they were such.
        missing: whether cells of the data that are NaN are marginalized.
        index_at: the position of the numbers of the rows among the arguments, if they are passed.
        model: the model, in the scope of the pair.
        guide: the guide, likewise.
        networks: the networks, keyed by name.
        unregistered: keyed by role, parameters of networks that *are* the program, or that share a
            registered name with another network: Pyro would silently leave them untrained.
        duplicate_names: two networks that the programs register under one name.
        unused: keyed by network, parameters that the programs reach but do not register.
        frozen: parameters passed in with requires_grad=False; Pyro makes every parameter it
            registers trainable.
    """

    def __init__(self, model: Callable[..., object], guide: Callable[..., object]) -> None:
        self.device = torch.device("cpu")
        self.data_size: int | None = None
        self.levels: int | None = None
        self.missing = False
        self.index_at: int | None = None
        # The tables of Pyro's parameter store that this pair sees.
        self._scope = _tables(ParamStoreDict())
        for program in (model, guide):
            if isinstance(program, Program):  # of another pair, whose values are the initial ones
                for key, table in cast(Pair, program.pair)._tables_with(model, guide).items():
                    self._scope[key].update(table)
        model = model.fn if isinstance(model, Program) else model
        guide = guide.fn if isinstance(guide, Program) else guide
        self.model = Program(model, self, "model")
        self.guide = Program(guide, self, "guide")
        self.networks: dict[str, nn.Module] = {}
        self.unregistered: dict[str, dict[str, nn.Parameter]] = {}
        self.duplicate_names: list[tuple[str, nn.Module, nn.Module]] = []
        self.unused: dict[str, dict[str, nn.Parameter]] = {}
        self._first: set[str] = set()
        for name, network in reach({"model": model, "guide": guide}, nn.Module):
            self._add(name, network)
        self.frozen = [
            (f"{name}.{inner}", parameter)
            for name, network in self.networks.items()
            for inner, parameter in network.named_parameters()
            if not parameter.requires_grad
        ]

    def _add(self, name: str, network: nn.Module) -> None:
        """Add a network under the first free name, unless it is part of another one."""
        if any(network is part for known in self.networks.values() for part in known.modules()):
            return
        free, number = name, 1
        while free in self.networks:
            number += 1
            free = f"{name}_{number}"
        self.networks[free] = network

    # The scope of the parameter store

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Within the block, Pyro's parameter store holds this pair's parameters and no others."""
        store = pyro.get_param_store()
        if store._params is self._scope["_params"]:
            yield
            return
        # Pyro's own `scope` forgets what a block that raised had registered, and its `get_state`
        # strips the marks by which a step under way outside finds its parameters.
        outside = _tables(store)
        vars(store).update(self._scope)
        try:
            yield
        finally:
            self._scope = _tables(store)
            vars(store).update(outside)

    def _tables_with(self, *programs: object) -> dict[str, dict[object, object]]:
        """The tables without the networks of what is not among some programs.

        Another guide would otherwise get the parameters that an earlier one registered by their
        names.
        """
        kept, left = (
            {
                id(parameter)
                for program in (self.model, self.guide)
                if (program in programs) == among
                for _, network in reach({program.role: program.fn}, nn.Module)
                for parameter in network.parameters()
            }
            for among in (True, False)
        )
        params = self._scope["_params"]
        gone = {name for name, p in params.items() if id(p) in left - kept}
        tables = {
            key: {name: value for name, value in self._scope[key].items() if name not in gone}
            for key in ("_params", "_constraints")
        }
        names = self._scope["_param_to_name"]
        return {**tables, "_param_to_name": {p: n for p, n in names.items() if n not in gone}}

    def parameters(self) -> dict[str, Tensor]:
        """The trained (unconstrained) parameters by their name in the scope, each tensor once."""
        named: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in self.named_parameters().items():
            named.setdefault(id(parameter), (name, parameter))
        return dict(named.values())

    def named_parameters(self) -> dict[str, Tensor]:
        """The parameters under every name that they have in the scope."""
        with self.scope():
            return dict(pyro.get_param_store()._params)

    def to(self, device: torch.device) -> None:
        """Move networks and parameters to a device; later parameters are made there."""
        self.device = device
        for network in self.networks.values():
            network.to(device)
        for parameter in self.parameters().values():
            parameter.data = parameter.data.to(device)

    def include(self, networks: Mapping[str, nn.Module]) -> None:
        """Add networks that are not the programs' own, and register their parameters."""
        for name, network in networks.items():
            network.to(self.device)
            self.networks[name] = network
            with self.scope():
                register(name, network)

    def elsewhere(self) -> list[str]:
        """Names of plain tensors that the programs use and that are on another device."""
        programs = {"model": self.model.fn, "guide": self.guide.fn}
        return [
            name
            for name, tensor in reach(programs, Tensor)
            if tensor.device.type != self.device.type
        ]

    # Initialization

    def initialize(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        """Run both programs once, so that all networks and parameters are registered.

        Generators and buffers are preserved.

        Args:
            batch: the arguments of both programs, each of shape (rows, ...).

        Returns:
            The traces of the model, replayed against the guide, and of the guide.
        """
        seen = Registrations(self.device)
        buffers = [buffer for network in self.networks.values() for buffer in network.buffers()]
        with preserve_generators(), preserve_tensors(buffers), self.scope(), seen:
            traces = paired_traces(self.model, self.guide, batch)
            for name, network in seen.networks:
                self._add(name, network)
            self.duplicate_names = [
                (name, first, second)
                for i, (name, first) in enumerate(seen.networks)
                for other, second in seen.networks[i + 1 :]
                if other == name
            ]
            self._drop_parts()
            self._register_rest([network for _, network in seen.networks])
        self._first = set(self.parameters())
        return traces

    def _drop_parts(self) -> None:
        """Remove networks that are part of another one."""
        parts = {
            id(part)
            for network in self.networks.values()
            for part in network.modules()
            if part is not network
        }
        self.networks = {n: net for n, net in self.networks.items() if id(net) not in parts}

    def _register_rest(self, passed: list[nn.Module]) -> None:
        """Register what belongs to the programs and what they did not register themselves."""
        registered = {id(p) for p in self.parameters().values()}
        self.unused = {}
        for name, network in self.networks.items():
            rest = {
                f"{name}$$${parameter_name}": parameter
                for parameter_name, parameter in network.named_parameters()
                if parameter.requires_grad and id(parameter) not in registered
            }
            own = (p for p in (self.model, self.guide) if network in (p.fn, _owner(p.fn)))
            role = next((p.role for p in own), None)
            parts = {id(part) for part in network.modules()}
            if role is None and any(id(other) in parts for other in passed):
                role = "model"
            if role is not None:
                self._register(role, rest)
            elif rest:
                self.unused[name] = rest

    def _register(self, role: str, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make a program register parameters, now and whenever it runs."""
        self.unregistered[role] = {**self.unregistered.get(role, {}), **parameters}
        for name, parameter in parameters.items():
            pyro.param(name, parameter)

    @property
    def _adapted(self) -> bool:
        """Whether the arguments of a batch are not those of the programs."""
        return self.missing or self.index_at is not None

    def unscoped(self, role: str) -> Callable[..., object]:
        """A program for use within the scope: the user's own unless it misses parameters."""
        program = self.model if role == "model" else self.guide
        return program if self.unregistered.get(role) or self._adapted else program.fn

    def register_optimized(self, optimized: set[int]) -> None:
        """Register unused parameters that the user's optimizer updates, given by id."""
        for network, parameters in list(self.unused.items()):
            given = {name: p for name, p in parameters.items() if id(p) in optimized}
            if given:
                self._register("model", given)
                del self.unused[network]

    def registered(self) -> dict[str, dict[object, object]]:
        """What is registered in the scope, for `register_again`."""
        with self.scope():
            return {key: dict(table) for key, table in _tables(pyro.get_param_store()).items()}

    def register_again(self, registered: Mapping[str, Mapping[object, object]]) -> None:
        """Register what `registered` returned, and nothing else."""
        with self.scope():
            for key, table in _tables(pyro.get_param_store()).items():
                table.clear()
                table.update(registered[key])

    def finite(self) -> bool:
        """Whether all parameters are finite; reads the device."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters().values())

    # Modes and state

    def train(self) -> None:
        """Put the networks into train mode; parts that arrived frozen in eval mode stay in it."""
        trained = {id(p) for p in self.parameters().values()}
        for network in self.networks.values():
            # One that arrived in eval mode and is not trained was frozen on purpose.
            if not network.training and any(id(p) in trained for p in network.parameters()):
                network.train()

    def eval(self) -> None:
        """Put the networks into eval mode."""
        for network in self.networks.values():
            network.eval()

    def state_dict(self) -> dict[str, dict[str, object]]:
        """A copy of everything that was trained: networks with buffers, and other parameters."""
        params = self._own_parameters()
        with self.scope():
            known = dict(pyro.get_param_store()._constraints)
        return {
            "networks": {n: copy.deepcopy(net.state_dict()) for n, net in self.networks.items()},
            "params": {name: parameter.detach().clone() for name, parameter in params.items()},
            "data": {
                "size": self.data_size,
                "levels": self.levels,
                "missing": self.missing,
                "index_at": self.index_at,
            },
            # Those that appeared after the first step, with what is needed to make them again.
            "late": {
                name: constraint_to_plain(known.get(name, constraints.real))
                for name in params
                if name not in self._first
            },
        }

    def _own_parameters(self) -> dict[str, Tensor]:
        """The parameters that belong to no network."""
        owned = {id(p) for network in self.networks.values() for p in network.parameters()}
        return {name: p for name, p in self.parameters().items() if id(p) not in owned}

    def load_state_dict(self, state: Mapping[str, Mapping[str, object]]) -> None:
        """Copy saved values into the networks and parameters, after `initialize`.

        Raises:
            ValueError: if the saved names or shapes differ from those of this pair.
        """
        late = state.get("late", {})
        data = cast(Mapping[str, int | None], state.get("data", {}))
        self.data_size, self.levels = data.get("size"), data.get("levels")
        self.missing, self.index_at = bool(data.get("missing")), data.get("index_at")
        own = self._own_parameters()
        _check_names("networks", set(state["networks"]), set(self.networks))
        _check_names(
            "parameters", set(state["params"]) - set(late), (set(own) & self._first) - set(late)
        )
        with self.scope():
            store = pyro.get_param_store()
            for name in set(own) - set(state["params"]):
                del store[name]  # it appeared after the state was saved
            for name, plain in late.items():
                if name not in own:
                    _make_parameter(name, plain, cast(Tensor, state["params"][name]))
        params = self._own_parameters()
        for name, network in self.networks.items():
            saved = cast(Mapping[str, Tensor], state["networks"][name])
            try:
                network.load_state_dict(saved)
            except RuntimeError as error:
                raise ValueError(
                    f"the saved values do not fit network {name!r}: {error}"
                ) from error
        with torch.no_grad():
            for name in params:
                value = cast(Tensor, state["params"][name])
                if value.shape != params[name].shape:
                    raise ValueError(
                        f"parameter {name!r} was saved with shape {tuple(value.shape)}, "
                        f"the program makes it with {tuple(params[name].shape)}"
                    )
                params[name].copy_(value)


def _make_parameter(name: str, plain: object, value: Tensor) -> None:
    """Make a parameter in Pyro's store, from its unconstrained value."""
    if plain is None:
        raise ValueError(
            f"parameter {name!r} appeared after the first step, with a constraint that cannot be "
            "saved: make it in every step, or with one of pyro.distributions.constraints"
        )
    constraint = constraint_from_plain(cast("list[object]", plain))
    pyro.param(name, transform_to(constraint)(value), constraint=constraint)


def pair_of(*programs: Callable[..., object]) -> Pair | None:
    """The pair of programs that `fit` or `load` returned; None for a user's own programs."""
    return next((cast(Pair, p.pair) for p in programs if isinstance(p, Program)), None)


def rows_on_device(
    data: object, *programs: Callable[..., object], missing: Tensor | str | None = None
) -> Rows:
    """Data as `Rows` on the device of the programs.

    Args:
        data: what `pvae.data.rows` takes.
        *programs: those of a `Fit` know their device, how many grey levels x of uint8 has, and
            whether NaN means that a value is missing; others leave the data where they are.
        missing: what is missing of x; `Rows` know it themselves.
    """
    pair = pair_of(*programs)
    if isinstance(data, Rows) and data.missing is not None:
        missing = None
    if pair is None:
        return rows(data, missing=missing)
    if missing is None and pair.missing and not isinstance(data, Rows):
        missing = "nan"
    return rows(data, levels=pair.levels, missing=missing).to(pair.device)


def _tables(store: ParamStoreDict) -> dict[str, dict[object, object]]:
    """The tables that make up a parameter store."""
    return {key: vars(store)[key] for key in ("_params", "_param_to_name", "_constraints")}


def _owner(program: Callable[..., object]) -> object:
    return getattr(program, "__self__", None)


def _check_names(what: str, saved: set[str], own: set[str]) -> None:
    if saved != own:
        raise ValueError(
            f"the saved {what} are {sorted(saved)}, the pair's are {sorted(own)}: "
            "load with the programs that were trained"
        )
