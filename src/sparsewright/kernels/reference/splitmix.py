"""Uniform numbers by key and place."""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED, _AT_ONCE = 1 << 15, 1 << 22  # entries worked on together, in a cache or not


def check_uniform(tensor: Tensor, key: int, first: int) -> None:
    """Raise where the arguments of uniform_ do not fit."""
    if tensor.dtype is not torch.float32:
        raise TypeError(f"uniform numbers are float32, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError("uniform numbers need a contiguous tensor")
    if not (0 <= key < 1 << 64 and 0 <= first < 1 << 63):
        raise ValueError(f"key {key} or first {first} is out of range")


def uniform_(tensor: Tensor, key: int, first: int) -> None:
    """Entry i in flat order = the number of step `first + i` of SplitMix64 from the state `key`."""
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
    """64 bits as the int64 that torch takes."""
    return bits - (bits >> 63 << 64)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right, zeros from the left."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
