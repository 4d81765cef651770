"""Every objective on one Gaussian, two Gaussian layers and a belief network."""

from collections.abc import Iterator

from exact import targets as exact
from exact.belief_network import Belief
from exact.case import Row
from exact.gaussian_layers import Gaussian, Hierarchy
from exact.gradients import draw

from pvae import objectives as ob

REPARAMETERIZED = {
    "a Gaussian": Gaussian,
    "two Gaussian layers, up": lambda: Hierarchy("up"),
    "two Gaussian layers, down": lambda: Hierarchy("down"),
}
SCORED = {"a belief network": Belief, "a Gaussian by scores": lambda: Gaussian(scored=True)}


def _bound(k):
    return lambda pair, x: exact.importance_weighted(pair, x, k)


PATHWISE = {
    "ELBO(1)": (lambda: ob.ELBO(1), exact.elbo),
    "ELBO(2, analytic)": (lambda: ob.ELBO(2, kl="analytic"), exact.elbo),
    "STL(1)": (lambda: ob.STL(1), exact.elbo),
    "IWAE(2)": (lambda: ob.IWAE(2), _bound(2)),
    "DReG(2)": (lambda: ob.DReG(2), _bound(2)),
}
BY_SCORES = {
    "REINFORCE(1)": (lambda: ob.REINFORCE(1, baseline="none"), exact.elbo),
    "REINFORCE(3)": (lambda: ob.REINFORCE(3), exact.elbo),
    "VIMCO(2)": (lambda: ob.VIMCO(2), _bound(2)),
    "WakeSleep(1)": (lambda: ob.WakeSleep(1), exact.wake_sleep),
    "RWS(2)": (lambda: ob.RWS(2), lambda p, x: exact.reweighted_wake_sleep(p, x, 2, 1.0)),
    "RWS(2, 0.5)": (
        lambda: ob.RWS(2, insomnia=0.5),
        lambda p, x: exact.reweighted_wake_sleep(p, x, 2, 0.5),
    ),
}


def rows(effort: int) -> Iterator[Row]:
    for pairs, objectives in ((REPARAMETERIZED, PATHWISE), (SCORED, BY_SCORES)):
        for pair_name, make in pairs.items():
            for name, (objective, target) in objectives.items():
                pair = make()
                yield from _rows(pair_name, name, objective(), pair, target, effort)


def _rows(pair_name, name, objective, pair, target, effort) -> Iterator[Row]:
    wanted = target(pair, pair.x)
    draws = draw(objective, pair, pair.x, 20_000 * effort, seed=3)
    for key, value in {"loss": wanted.value, **wanted.gradients(pair)}.items():
        flat = zip(
            draws.mean[key].reshape(-1),
            value.reshape(-1),
            draws.std_error(key).reshape(-1),
            strict=True,
        )
        for i, (mean, number, error) in enumerate(flat):
            place = f"[{i}]" if value.numel() > 1 else ""
            quantity = f"{name} loss" if key == "loss" else f"{name} d/d{key.split('.')[1]}{place}"
            yield Row(pair_name, quantity, mean.item(), number.item(), error.item())
