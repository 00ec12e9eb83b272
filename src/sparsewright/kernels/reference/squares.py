"""Reference kernels for histograms of squares, which LAMP scores need.

The square of an entry is that of min(|entry|, 2**500) in float64. Its bits, read as an integer,
increase with |entry|.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MANTISSA, LIMB = 52, 26
"""Bits of a float64 mantissa, and of half of it."""
_LARGEST = 2.0**500  # replaces larger entries, so that squares and their sums are finite
_BLOCK = 1 << 18  # entries processed at a time, which keeps the temporaries in the cache


def _squares(entries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of |entries|, and the bits of their squares."""
    for block in entries.split(_BLOCK):
        size = block.abs()
        yield size, size.double().clamp(max=_LARGEST).square().view(torch.int64)


def tabulate_squares(entries: Tensor, prefixes: Tensor, shift: int, width: int) -> Tensor:
    """Return a histogram of the bits `shift..shift + width - 1` of the squares.

    Args:
        entries: floating point, `[n]`.
        prefixes: ascending, int64; the bits above those of the histogram. Each square has one of
            them.
        shift: number of bits below those of the histogram.
        width: number of bits of the histogram.

    Returns:
        int64 `[3, prefixes, 2**width]`: the number of entries, and the upper and the lower part of
        the sum of their mantissas, of which the lower part counts `2**-LIMB` of the upper one.
    """
    values = 1 << width
    table = torch.zeros(3, len(prefixes) * values, dtype=torch.int64, device=entries.device)
    for _, bits in _squares(entries):
        slot = torch.searchsorted(prefixes, bits >> (shift + width))
        index = (slot << width) + ((bits >> shift) & (values - 1))
        mantissa = (bits & ((1 << MANTISSA) - 1)) | (1 << MANTISSA)
        table[0] += torch.bincount(index, minlength=table.shape[1])
        table[1].index_add_(0, index, mantissa >> LIMB)
        table[2].index_add_(0, index, mantissa & ((1 << LIMB) - 1))
    return table.view(3, -1, values)


def gather_squares(entries: Tensor, low: int, high: int) -> Tensor:
    """Return each |entry| whose square has bits in `low..high`, in order."""
    parts = [size[(bits >= low) & (bits <= high)] for size, bits in _squares(entries)]
    return torch.cat(parts) if parts else entries
