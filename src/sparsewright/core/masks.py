"""Pure functions that compute masks, for any structure.

Scores and masks have the weight's shape. A structure or a score shaper defines which entries
compete. On ties, the lower flat index wins on every device.
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
        score_shaper: structure or score shaper that defines which entries compete; None: all
            entries compete.
        magnitude: rank by |score|, without allocating it.

    Returns:
        Bool mask, shaped like `score`.

    Raises:
        ScoreError: a score is NaN.
        LevelError: the level is outside 0..1, or the structure does not support it.

    >>> import torch
    >>> make_mask_topk_sparsity(torch.tensor([1.0, 3.0, 2.0, 0.0]), 0.5)
    tensor([False,  True,  True, False])
    """
    return as_structure(score_shaper).topk(score, sparsity, magnitude=magnitude)


def make_mask_drop_minimum(
    score: Tensor, mask: Tensor, drop_fraction: Level, score_shaper: ScoreShaper | None = None
) -> tuple[Tensor, Tensor]:
    """Drop the live connections with the lowest scores.

    A row with `live` live connections keeps `floor((1 - drop_fraction) * live)` of them.

    Args:
        score: any shape, floating point.
        mask: bool, shaped like `score`; True marks live connections. Pruned connections stay
            pruned.
        drop_fraction: fraction of the live connections to drop, 0..1.
        score_shaper: structure or score shaper that defines which entries compete; None: all
            entries compete.

    Returns:
        The new mask, a subset of `mask`, and the number kept per row, int64 `[rows]`.

    Raises:
        ScoreError: the score of a live connection is NaN.

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
    """Grow the pruned connections with the highest scores until the level is met.

    Args:
        score: any shape, floating point.
        mask: bool, shaped like `score`; its live connections all stay.
        sparsity: level to reach, 0..1; a row that already keeps more does not change.
        mask_nonzero: number of live connections in each row of `mask`, `[rows]` or a number, if
            you know it; None: this function counts them.
        score_shaper: structure or score shaper that defines which entries compete; None: all
            entries compete.

    Returns:
        Bool mask, a superset of `mask`.

    Raises:
        ScoreError: the score of a pruned connection is NaN.
        LevelError: the level is outside 0..1, or the structure does not support it.

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
    """Update a mask as SET and RigL do: drop the smallest |weight|, grow the largest |grow_score|.

    Each row of n competing entries first keeps its largest live connections. Their number is
    `min(floor((1 - drop_fraction) * live), num_kept(sparsity, n))`. All other connections,
    including those just dropped, can then grow until the row has `num_kept(sparsity, n)`.

    Args:
        weight: any shape, floating point.
        mask: bool, shaped like `weight`.
        sparsity: level to reach, 0..1.
        drop_fraction: fraction of the live connections to drop, 0..1.
        grow_score: tensor shaped like `weight`, or a matrix in row blocks.
        score_shaper: structure or score shaper that defines which entries compete; None: all
            entries compete.

    Returns:
        Bool mask with exactly `num_kept(sparsity, n)` live connections per row.

    Raises:
        ScoreError: the score of a candidate is NaN.
        LevelError: the level is outside 0..1, or the structure does not support it.
    """
    structure = as_structure(score_shaper)
    return structure.drop_and_grow(weight, mask, sparsity, drop_fraction, grow_score)
