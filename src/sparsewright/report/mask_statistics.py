"""Mask statistics in numpy: overlap, dead rows and densities."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsewright.formats.mask_bits import Mask


def jaccard(first: int, second: int, both: int) -> float:
    """Return the Jaccard index |A and B| / |A or B| of two sets, or 1 if both are empty.

    Args:
        first: size of A.
        second: size of B.
        both: size of the intersection.

    >>> jaccard(4, 4, 2), jaccard(0, 0, 0)
    (0.3333333333333333, 1.0)
    """
    union = first + second - both
    return both / union if union else 1.0


def chance_jaccard(first: int, second: int, total: int) -> float:
    """Return the Jaccard index at the expected overlap of two independent random masks.

    Two random masks that keep a and b of n connections share a * b / n connections on average.

    >>> round(chance_jaccard(100, 100, 1000), 4)
    0.0526
    """
    both = first * second / total if total else 0.0
    union = first + second - both
    return both / union if union else 1.0


def num_unused(level: float, kept: int, total: int) -> int:
    """Return the connections that a level allows and a mask prunes; 0 if the mask keeps more.

    >>> num_unused(0.7, 80, 272), num_unused(0.7, 81, 272)
    (1, 0)
    """
    return max(0, math.floor(round((1 - level) * total, 6)) - kept)


def dead_rows(mask: Mask) -> NDArray[np.intp]:
    """Return the indices of the rows without a live connection."""
    return np.flatnonzero(~mask.any(axis=1))


def density(mask: Mask, cells: int) -> tuple[NDArray[np.uint8], float]:
    """Downsample a mask to a grid of cells that hold their fractions of live connections.

    Args:
        mask: bool `[rows, columns]`.
        cells: maximum number of cells along each dimension.

    Returns:
        The grid and the live fraction of its densest cell. The grid is uint8
        `[min(rows, cells), min(columns, cells)]`: 255 for the densest cell, and 0 only for cells
        without a live connection.

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
    """Return the boundaries of at most `cells` equal parts; the page's viewer has the same rule."""
    parts = min(size, cells)
    return (np.arange(parts + 1) * size) // parts


def bits_per_weight(kept: int, total: int) -> float:
    """Return the entropy of a random mask in bits per weight, the limit of any compression.

    >>> round(bits_per_weight(1, 10), 2)
    0.47
    """
    p = kept / total if total else 0.0
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
