"""Arithmetic on masks: overlap, dead rows, densities. Numpy in, numpy and numbers out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsewright.formats.mask_bits import Mask


def jaccard(first: int, second: int, both: int) -> float:
    """|A and B| / |A or B| from the sizes of two sets and of what they share; two empty: 1.

    >>> jaccard(4, 4, 2), jaccard(0, 0, 0)
    (0.3333333333333333, 1.0)
    """
    union = first + second - both
    return both / union if union else 1.0


def chance_jaccard(first: int, second: int, total: int) -> float:
    """The Jaccard index at the expected overlap of two masks drawn independently at random.

    Of two masks that keep a and b of n connections, a * b / n are expected in both.

    >>> round(chance_jaccard(100, 100, 1000), 4)
    0.0526
    """
    both = first * second / total if total else 0.0
    union = first + second - both
    return both / union if union else 1.0


def dead_rows(mask: Mask) -> NDArray[np.intp]:
    """Indices of the rows without a live connection."""
    return np.flatnonzero(~mask.any(axis=1))


def density(mask: Mask, cells: int) -> tuple[NDArray[np.uint8], float]:
    """A mask downsampled: the live share of each cell of a grid.

    Args:
        mask: bool `[rows, columns]`.
        cells: most cells along each dimension.

    Returns:
        uint8 `[min(rows, cells), min(columns, cells)]`, 255 for the densest cell and 0 for a cell
        without a live connection only; and the live share of the densest cell.

    >>> density(np.eye(4, dtype=bool), 2)[1]
    0.5
    """
    edges = [_edges(size, cells) for size in mask.shape]
    lengths = [np.diff(edge) for edge in edges]
    sums = np.add.reduceat(mask, edges[1][:-1], axis=1, dtype=np.int32)
    sums = np.add.reduceat(sums, edges[0][:-1], axis=0)
    share = sums / np.outer(*lengths)
    peak = float(share.max(initial=0.0))
    scaled = share * (255 / peak) if peak else share
    return np.where(sums > 0, np.maximum(scaled.round(), 1), 0).astype(np.uint8), peak


def _edges(size: int, cells: int) -> NDArray[np.intp]:
    """Boundaries of at most so many equal parts; the viewer divides in the same way."""
    parts = min(size, cells)
    return (np.arange(parts + 1) * size) // parts


def bits_per_weight(kept: int, total: int) -> float:
    """Entropy of a random mask: what a compressor can reach, in bits.

    >>> round(bits_per_weight(1, 10), 2)
    0.47
    """
    p = kept / total if total else 0.0
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
