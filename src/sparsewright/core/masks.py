"""Mask arithmetic: the documented functions, over any structure.

Every function is pure. Scores and masks are shaped like the weight; a structure or a score shaper
says which entries compete. Of equal scores the lower flat index wins, on every device.
"""

from __future__ import annotations

from torch import Tensor

from sparsewright.core.counts import Level
from sparsewright.core.rows import as_structure
from sparsewright.core.structure import RowBlocks, ScoreShaper


def make_mask_topk_sparsity(
    score: Tensor,
    sparsity: Level,
    score_shaper: ScoreShaper | None = None,
    *,
    magnitude: bool = False,
) -> Tensor:
    """Keep the highest scores.

    Args:
        score: any shape, floating point.
        sparsity: level, 0..1; each row of n competing entries keeps `num_kept(sparsity, n)`.
        score_shaper: a structure or a shaper: which entries compete; None: all.
        magnitude: rank by |score|, without making it.

    Returns:
        Bool mask, shaped like `score`.

    Raises:
        ScoreError: NaN among the scores.
        LevelError: level outside 0..1, or one that the structure cannot hold.

    >>> import torch
    >>> make_mask_topk_sparsity(torch.tensor([1.0, 3.0, 2.0, 0.0]), 0.5)
    tensor([False,  True,  True, False])
    """
    return as_structure(score_shaper).topk(score, sparsity, magnitude=magnitude)


def make_mask_drop_minimum(
    score: Tensor, mask: Tensor, drop_fraction: Level, score_shaper: ScoreShaper | None = None
) -> tuple[Tensor, Tensor]:
    """Drop the live connections with the lowest scores.

    Of `live` connections in a row, `floor((1 - drop_fraction) * live)` are kept.

    Args:
        score: any shape, floating point.
        mask: bool, shaped like `score`: the live connections. A pruned one never wins.
        drop_fraction: fraction of the live connections to drop, 0..1.
        score_shaper: a structure or a shaper: which entries compete; None: all.

    Returns:
        The new mask, a subset of `mask`, and the number kept per row, int64 `[rows]`.

    Raises:
        ScoreError: NaN among the scores of live connections.

    >>> import torch
    >>> make_mask_drop_minimum(torch.tensor([4.0, 3.0, 2.0, 9.0]),
    ...                        torch.tensor([True, True, True, False]), 0.4)
    (tensor([ True, False, False, False]), tensor([1]))
    """
    return as_structure(score_shaper).drop(score, mask, drop_fraction)


def make_mask_grow_maximum(
    score: Tensor,
    mask: Tensor,
    sparsity: Level,
    mask_nonzero: Tensor | int | None = None,
    score_shaper: ScoreShaper | None = None,
) -> Tensor:
    """Grow the pruned positions with the highest scores until the level is met.

    Args:
        score: any shape, floating point.
        mask: bool, shaped like `score`: connections that are kept whatever their score.
        sparsity: level to reach, 0..1; a row that already keeps more stays as it is.
        mask_nonzero: live connections of `mask` per row (`[rows]` or a number), to save
            counting them; None: counted.
        score_shaper: a structure or a shaper: which entries compete; None: all.

    Returns:
        Bool mask, a superset of `mask`.

    Raises:
        ScoreError: NaN among the scores of pruned positions.
        LevelError: level outside 0..1, or one that the structure cannot hold.

    >>> import torch
    >>> make_mask_grow_maximum(torch.tensor([0.0, 5.0, 7.0, 6.0]),
    ...                        torch.tensor([True, False, False, False]), 0.5)
    tensor([ True, False,  True, False])
    """
    return as_structure(score_shaper).grow(score, mask, sparsity, live=mask_nonzero)


def drop_and_grow(
    weight: Tensor,
    mask: Tensor,
    sparsity: Level,
    drop_fraction: Level,
    grow_score: Tensor | RowBlocks,
    score_shaper: ScoreShaper | None = None,
) -> Tensor:
    """One update of SET and RigL: drop the smallest |weight|, grow the largest |grow_score|.

    Per row of n competing entries, `min(floor((1 - drop_fraction) * live), num_kept(sparsity, n))`
    live connections of largest magnitude stay; every other position, those just dropped included,
    may then be grown, until `num_kept(sparsity, n)`.

    Args:
        weight: any shape, floating point.
        mask: bool, shaped like `weight`.
        sparsity: level to reach, 0..1.
        drop_fraction: fraction of the live connections to drop, 0..1.
        grow_score: shaped like `weight`; or a matrix in row blocks.
        score_shaper: a structure or a shaper: which entries compete; None: all.

    Returns:
        Bool mask with exactly `num_kept(sparsity, n)` per row.

    Raises:
        ScoreError: NaN among the scores that decide.
        LevelError: level outside 0..1, or one that the structure cannot hold.
    """
    structure = as_structure(score_shaper)
    return structure.drop_and_grow(weight, mask, sparsity, drop_fraction, grow_score)
