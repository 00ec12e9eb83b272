"""Reference kernel for uniform numbers that depend on a key and a position."""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED, _AT_ONCE = 1 << 15, 1 << 22  # entries per block; a CPU block fits in a cache


def check_uniform(tensor: Tensor, key: int, first: int) -> None:
    """Check the arguments of `uniform_`.

    Raises:
        TypeError: `tensor` is not float32.
        ValueError: `tensor` is not contiguous, or `key` or `first` is out of range.
    """
    if tensor.dtype is not torch.float32:
        raise TypeError(f"tensor must be float32; got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError("tensor must be contiguous")
    if not 0 <= key < 1 << 64:
        raise ValueError(f"key must be in 0..2**64-1; got {key}")
    if not 0 <= first < 1 << 63:
        raise ValueError(f"first must be in 0..2**63-1; got {first}")


def uniform_(tensor: Tensor, key: int, first: int) -> None:
    """Set entry i in flat order to number `first + i` of SplitMix64 with the state `key`."""
    flat = tensor.view(-1)
    block = _CACHED if tensor.device.type == "cpu" else _AT_ONCE
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        steps = torch.arange(len(part), device=tensor.device)
        z = steps.add_(first + start + 1).mul_(_signed(0x9E3779B97F4A7C15)).add_(_signed(key))
        z.bitwise_xor_(_shift(z, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
        z.bitwise_xor_(_shift(z, 27)).mul_(_signed(0x94D049BB133111EB))
        z.bitwise_xor_(_shift(z, 31))
        part.copy_(_shift(z, 40)).mul_(2**-24)


def _signed(bits: int) -> int:
    """Return 64 bits as a signed integer, which torch requires."""
    return bits - (bits >> 63 << 64)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros from the left."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
