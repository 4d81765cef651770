"""What networks may be called, and the shapes of x that they take."""

from collections.abc import Collection, Sequence

from torch import nn

from pvae._validation import nearest, sizes

__all__ = ["ACTIVATIONS", "NETWORKS", "check_name", "checked_shape"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
NETWORKS = ("mlp", "conv")


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known, with the nearest."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; {nearest(name, known)}")


def checked_shape(network: str, x_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of x as a tuple, if the network can take it."""
    check_name("network", network, NETWORKS)
    shape = sizes(x_shape)
    if network == "conv" and len(shape) not in (2, 3):
        raise ValueError(
            f"network 'conv' got x_shape {shape}; expected (height, width) or "
            "(channels, height, width): use network 'mlp' for data that are no images"
        )
    return shape
