"""Reference kernel that chooses the best pattern of 4x4 tiles, for transposable n:4 masks."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

SIDE = 4
_BLOCK = {"cpu": 1 << 12, "other": 1 << 16}  # tiles that are scored at a time
_FINITE, _INFINITE, _FIRST = 39, 44, 49
"""Bits of the integers that stand for finite scores, infinite scores and preferred entries."""


def pool_tiles(tensor: Tensor) -> Tensor:
    """Return the 4x4 tiles of dimensions 0 and 1 as `[tiles, 16]`, entries in flat order.

    In a convolution, each kernel position has its own tiles.
    """
    height, width, *kernel = tensor.shape
    tiles = tensor.reshape(height // SIDE, SIDE, width // SIDE, SIDE, math.prod(kernel))
    return tiles.permute(0, 2, 4, 1, 3).reshape(tensor.numel() // SIDE**2, SIDE**2)


def expand_tiles(tiles: Tensor, shape: torch.Size) -> Tensor:
    """Return tiles from `pool_tiles` as a contiguous tensor of the given shape."""
    height, width, *kernel = shape
    split = tiles.reshape(height // SIDE, width // SIDE, math.prod(kernel), SIDE, SIDE)
    return split.permute(0, 3, 1, 4, 2).reshape(shape).contiguous()


def choose_patterns(score: Tensor, first: Tensor | None, n: int) -> Tensor:
    """Return the pattern of each tile with the most `first` entries, then the largest score.

    The sum of the scores is computed exactly, after each score is rounded to a multiple of `2^-39`
    times the next power of two above the tile's largest finite |score| (or of `2^-1023`). The
    result is therefore the same on every device. An infinite score outweighs all finite ones. On
    ties, the pattern whose ascending flat indices come first wins.

    Args:
        score: `[tiles, 16]`, without NaN.
        first: bool `[tiles, 16]`, the entries that count before the score; None: no entries.
        n: number of entries in each row and each column of a tile, 1..4.

    Returns:
        Bool `[tiles, 16]`.

    >>> tile = torch.tensor([[9.0, 8, 0, 0, 8, 7, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]])
    >>> choose_patterns(tile, None, 1).reshape(4, 4).int()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0, 1]], dtype=torch.int32)
    """
    if first is not None and _are_valid(first, n):
        return first  # as at most updates of a training run
    table = _patterns(n).to(score.device)
    patterns = table.T.to(torch.float64)
    index = torch.empty(len(score), dtype=torch.int64, device=score.device)
    block = _BLOCK.get(score.device.type, _BLOCK["other"])
    for start in range(0, len(score), block):
        part = slice(start, start + block)
        value = _as_integers(score[part])
        if first is not None:
            value += first[part] * 2.0**_FIRST
        index[part] = (value @ patterns).max(dim=1).indices  # the first of equal maxima
    return table[index]


def _as_integers(score: Tensor) -> Tensor:
    """Return scores as integers in float64 whose sums of 16 are exact, in any order."""
    exact = score.to(torch.float64)
    finite = exact.nan_to_num(posinf=0.0, neginf=0.0)
    largest = finite.abs().amax(dim=1, keepdim=True)
    # Build the power of two from its bits: exp2 is not exact on every device.
    exponent = (largest.view(torch.int64) >> 52).clamp_(min=_FINITE - 1)
    scale = ((2045 + _FINITE - exponent) << 52).view(torch.float64)
    value = finite.mul_(scale).round_()
    infinite = exact.isinf()
    if bool(infinite.any()):
        value = torch.where(infinite, exact.sign() * 2.0**_INFINITE, value)
    return value


def _are_valid(tiles: Tensor, n: int) -> bool:
    """Return whether every tile has n entries in each row and each column."""
    grid = torch.arange(SIDE**2, device=tiles.device).reshape(SIDE, SIDE)
    lines = torch.zeros(SIDE**2, 2 * SIDE, device=tiles.device)
    for line, entries in enumerate([*grid, *grid.T]):
        lines[entries, line] = 1
    return bool((tiles.to(lines.dtype) @ lines == n).all())


@lru_cache(maxsize=SIDE)
def _patterns(n: int) -> Tensor:
    """Return all valid patterns of a tile: bool `[patterns, 16]`, the lowest indices first."""
    row = list(itertools.combinations(range(SIDE), n))
    every = [
        [SIDE * place + column for place, columns in enumerate(rows) for column in columns]
        for rows in itertools.product(row, repeat=SIDE)
        if all(sum(column in columns for columns in rows) == n for column in range(SIDE))
    ]
    table = torch.zeros(len(every), SIDE**2, dtype=torch.bool, device="cpu")
    for pattern, indices in zip(table, every, strict=True):
        pattern[indices] = True
    return table
