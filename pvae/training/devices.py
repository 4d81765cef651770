"""Find the device to train on."""

import torch

__all__ = ["find_device"]


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the first CUDA device, or else the CPU.

    Raises:
        ValueError: if the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "meta":
            raise NotImplementedError("tensors without values")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {str(name)!r} does not exist: this machine has {have}; "
            'device="auto" takes the best of them'
        ) from error
    return device
