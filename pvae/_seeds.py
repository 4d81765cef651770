"""Seeds of the project's own generators."""

import numpy as np

__all__ = ["named_seed"]


def named_seed(seed: int, name: str, number: int = 0) -> int:
    """A seed that depends on a name, so that the numbers drawn with it are unrelated to others.

    A generator that was seeded with 0 as it is would repeat the numbers of a user who made data
    after `torch.manual_seed(0)`.

    Args:
        seed: given by the user.
        name: of what is drawn.
        number: of the draw.

    Example:
        >>> named_seed(0, "shuffling") == named_seed(0, "shuffling")
        True
        >>> named_seed(0, "shuffling") == named_seed(0, "binarization")
        False
    """
    entropy = (seed % 2**64, number, *name.encode())
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
