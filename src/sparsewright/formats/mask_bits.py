"""Packed masks: entry i of the flattened mask is bit `i % 8` of byte `i // 8`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def pack_bits(mask: Mask) -> Bits:
    """Pack a bool mask of any shape into uint8 `[ceil(size / 8)]`; unused bits are 0.

    >>> pack_bits(np.array([[True, False, True]]))
    array([5], dtype=uint8)
    """
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_bits(bits: Bits, shape: tuple[int, ...]) -> Mask:
    """Unpack a mask of the given shape that `pack_bits` packed."""
    count = int(np.prod(shape, dtype=np.int64))
    return np.unpackbits(bits, count=count, bitorder="little").astype(bool).reshape(shape)


def count_bits(bits: Bits) -> int:
    """Count the live connections in a packed mask."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64)) if _HAS_COUNT else _slow_count(bits)


_HAS_COUNT = hasattr(np, "bitwise_count")  # numpy 2


def _slow_count(bits: Bits) -> int:
    return int(np.unpackbits(bits).sum(dtype=np.int64))


def why_not_packed(bits: Bits, size: int) -> str:
    """Return why an array is not a packed mask of `size` entries, or "".

    >>> why_not_packed(np.array([5], dtype=np.uint8), 3)
    ''
    >>> why_not_packed(np.array([5], dtype=np.uint8), 9)
    'expected shape (2,) for 9 entries'
    """
    if bits.dtype != np.uint8:
        return f"expected dtype uint8, got {bits.dtype}"
    if bits.shape != (-(-size // 8),):
        return f"expected shape {(-(-size // 8),)} for {size} entries"
    if size % 8 and bits[-1] >> size % 8:
        return f"bits are set beyond its {size} entries"
    return ""
