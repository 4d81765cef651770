"""Which kernel computes a matrix product on a GPU: one choice, by a rule, without measurement."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["chosen_products", "wanted_tile"]

Tile = tuple[int, int, int, int, int]  # its rows, columns and depth; stages; warps

# Small tiles occupy more of the GPU. None: products are the library's.
_TILES: dict[str, Tile | None] = {"tf32": (32, 32, 128, 2, 4), "float32": None}
_NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages", "num_warps")
_DEEPEST = 1024  # sums over more products are split by the library


def wanted_tile() -> Tile | None:
    """The tile of small products at torch's present precision; None if the library computes all."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return _TILES["float32" if exact else "tf32"]


@contextmanager
def chosen_products(tile: Tile | None) -> Iterator[None]:
    """Within the block, Inductor compiles small products itself, with what follows them.

    It would otherwise call the GPU's library for all of them, or measure which kernel is fastest,
    and another measurement could give other roundings.

    Args:
        tile: that of small products; None changes nothing.
    """
    if tile is None:
        yield
        return
    from torch._inductor import config
    from torch._inductor.virtualized import V

    options = {"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN,TRITON"}
    with config.patch(options), V.set_choices_handler(_handler(tile)):
        yield


def _handler(tile: Tile) -> Any:
    from torch._inductor.choices import InductorChoices

    class OneChoice(InductorChoices):
        """Chooses a kernel by the sizes of a product."""

        def uuid(self) -> str:
            return f"pvae products {tile}"

        def _finalize_template_configs(
            self, template_choices: Mapping[str, Iterator[Any]], *args: Any, **kwargs: Any
        ) -> list[Any]:
            return [_choose([one for some in template_choices.values() for one in some], tile)]

    return OneChoice()


def _choose(choices: Sequence[Any], tile: Tile) -> Any:
    """One of the choices: the library's, or a small tile where larger ones leave the GPU idle."""
    of_library = [one for one in choices if "Extern" in type(one.template).__name__]
    tiles = [one for one in choices if _size(one) is not None]
    if not tiles or (of_library and _is_large(choices[0])):
        return (of_library or choices)[0]
    return min(tiles, key=lambda one: _distance(one, tile))


def _is_large(choice: Any) -> bool:
    rows, columns = (int(size) for size in choice.layout.size[-2:])
    depth = int(choice.inputs.nodes()[-1].get_size()[-2])
    blocks = -(-rows // 64) * -(-columns // 64)
    processors = torch.cuda.get_device_properties(choice.layout.device).multi_processor_count
    return blocks > 2 * processors or depth > _DEEPEST


def _size(choice: Any) -> tuple[int, ...] | None:
    """The tile of a choice; None if it is the library's, or no plain template."""
    given = choice.params.to_kwargs()
    if getattr(choice.template, "name", "") not in ("mm", "bmm") or _NAMES[0] not in given:
        return None
    return tuple(int(given[name]) for name in _NAMES)


def _distance(choice: Any, tile: Tile) -> int:
    """How far a choice is from the wanted tile, which is cut to the sizes of the product."""
    size = _size(choice)
    assert size is not None
    return sum(
        abs(a.bit_length() - b.bit_length()) * weight
        for a, b, weight in zip(size, tile, (4, 4, 2, 1, 1), strict=True)
    )
