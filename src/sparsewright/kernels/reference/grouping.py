"""Reference kernels that select in groups of neighbors: n of every m entries, and 4x4 tiles."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsewright.kernels.reference.masking import check_mask
from sparsewright.kernels.reference.ranking import NanError, check_score, select
from sparsewright.kernels.reference.tiles import SIDE, choose_patterns, expand_tiles, pool_tiles


def check_groups(
    score: Tensor, n: int, m: int, dims: tuple[int, ...], among: Tensor | None, kept: Tensor | None
) -> None:
    """Raise an error unless groups of m entries divide `dims`, and the mask fits the scores.

    Raises:
        TypeError: `score` is not floating point, or the mask is not bool.
        ValueError: a shape does not fit, n is out of range, or both masks are given.
    """
    check_score(score)
    if among is not None and kept is not None:
        raise ValueError("expected `among` or `kept`, not both")
    for mask in (among, kept):
        if mask is not None:
            check_mask(score, mask)
    if not 1 <= n <= m:
        raise ValueError(f"n must be between 1 and m = {m}; got {n}")
    for dim in dims:
        if not 0 <= dim < score.dim() or score.shape[dim] % m:
            raise ValueError(
                f"score must have a dimension {dim} that {m} divides; got {tuple(score.shape)}"
            )


def pool_groups(tensor: Tensor, m: int, dim: int) -> Tensor:
    """Return `[groups, m]`: m consecutive entries along `dim` for each index of the others."""
    return tensor.movedim(dim, -1).reshape(tensor.numel() // m, m)


def expand_groups(groups: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Return groups from `pool_groups` as a contiguous tensor of the given shape."""
    last = [*shape[:dim], *shape[dim + 1 :], shape[dim]]
    return groups.reshape(last).movedim(-1, dim).contiguous()


def select_n_m(
    score: Tensor,
    n: int,
    m: int,
    dim: int,
    among: Tensor | None = None,
    kept: Tensor | None = None,
    magnitude: bool = True,
    *,
    select_rows: Callable[..., Tensor] = select,
) -> Tensor:
    """Mark the n largest scores (or |scores|) of every m consecutive entries along `dim`.

    On ties the lower index wins. `among` and `kept` are described in `kernels.select_n_m`.
    `select_rows` selects in the groups, as rows.
    """
    check_groups(score, n, m, (dim,), among, kept)
    groups = pool_groups(score, m, dim)
    if kept is None:
        candidates = None if among is None else pool_groups(among, m, dim)
        chosen = select_rows(groups, n, candidates, magnitude)
    else:
        stay = pool_groups(kept, m, dim)
        missing = (n - stay.sum(1)).clamp(min=0)
        chosen = select_rows(groups, missing, ~stay, magnitude).logical_or_(stay)
    return expand_groups(chosen, score.shape, dim)


def select_tiles(
    score: Tensor,
    n: int,
    among: Tensor | None = None,
    kept: Tensor | None = None,
    magnitude: bool = True,
) -> Tensor:
    """Mark the valid pattern with the largest sum of scores (or |scores|) in each 4x4 tile.

    `choose_patterns` defines the sum. `among` and `kept` are described in `kernels.select_tiles`.
    """
    check_groups(score, n, SIDE, (0, 1), among, kept)
    units = pool_tiles(score.abs() if magnitude else score)
    mask = kept if among is None else among
    first = None if mask is None else pool_tiles(mask)
    if first is not None:
        units = units.masked_fill(first if among is None else ~first, 0)
    if bool(units.isnan().any()):
        raise NanError("score has NaN among the candidates")
    chosen = choose_patterns(units, first, n)
    if first is not None:
        chosen = chosen | first if among is None else chosen & first
    return expand_tiles(chosen, score.shape)
