"""Mask arithmetic: how many connections to keep, and which.

Every function is pure. Scores and masks are shaped like the weight; a score shaper says which
entries compete. Of equal scores the lower flat index wins, on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.contest import make_contest
from sparsewright.core.errors import LevelError, OptionTypeError, ScoreError, ShapeError
from sparsewright.core.shapers import ScoreShaper

Level = float | Tensor

_MICRO = Decimal("0.000001")


def as_decimal(level: object, what: str = "sparsity") -> Decimal:
    """Read a level as the shortest decimal that its own type prints it by.

    Args:
        level: a number, a numpy scalar or a 0-d tensor; 0..1.
        what: the name to use in an error.

    Raises:
        OptionTypeError: not a number.
        LevelError: outside 0..1, or NaN.

    >>> as_decimal(0.9), as_decimal(torch.tensor(0.9)), as_decimal(torch.tensor(0.9).double())
    (Decimal('0.9'), Decimal('0.9'), Decimal('0.8999999761581421'))
    """
    if isinstance(level, Tensor) and level.numel() == 1:
        level = level.detach().cpu()
        level = (level if level.dtype != torch.bfloat16 else level.float()).numpy().reshape(())[()]
    if isinstance(level, bool | np.bool_) or not isinstance(level, int | float | np.number):
        raise OptionTypeError(what, level, "a number or a 0-d tensor")
    if not 0 <= level <= 1:
        raise LevelError(what, level)
    return Decimal(str(level))


def num_kept(level: Level, n: int) -> int:
    """How many of `n` competing entries a level keeps: `floor(round((1 - level) * n, 6))`.

    The product is exact: `level` is read as the shortest decimal of what was given, so a level
    means the same in float32 and float64, at any `n`.

    Args:
        level: fraction pruned, 0..1.
        n: number of competing entries.

    >>> num_kept(0.9, 100), num_kept(torch.tensor(0.9), 100), num_kept(0.3333, 7)
    (10, 10, 4)
    >>> num_kept(0.0, 5), num_kept(1.0, 5)
    (5, 0)
    """
    exact = (1 - as_decimal(level)) * n
    return int(exact.quantize(_MICRO, ROUND_HALF_EVEN).to_integral_value(ROUND_FLOOR))


class RowBlocks(Protocol):
    """Scores of a matrix that come one block of rows after the other, never whole."""

    shape: torch.Size

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row, and scores `[block, cols]`, of each block."""


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
        score_shaper: which entries compete; None: all.
        magnitude: rank by |score|, without making it.

    Returns:
        Bool mask, shaped like `score`.

    Raises:
        ScoreError: NaN among the scores.
        LevelError: level outside 0..1.

    >>> make_mask_topk_sparsity(torch.tensor([1.0, 3.0, 2.0, 0.0]), 0.5)
    tensor([False,  True,  True, False])
    """
    contest = make_contest(score, score_shaper)
    kept = [num_kept(sparsity, contest.n)] * contest.rows
    return contest.unshape(contest.select(contest.shape(score), kept, magnitude=magnitude))


def make_mask_drop_minimum(
    score: Tensor, mask: Tensor, drop_fraction: Level, score_shaper: ScoreShaper | None = None
) -> tuple[Tensor, Tensor]:
    """Drop the live connections with the lowest scores.

    Of `live` connections in a row, `floor((1 - drop_fraction) * live)` are kept.

    Args:
        score: any shape, floating point.
        mask: bool, shaped like `score`: the live connections. A pruned one never wins.
        drop_fraction: fraction of the live connections to drop, 0..1.
        score_shaper: which entries compete; None: all.

    Returns:
        The new mask, a subset of `mask`, and the number kept per row, int64 `[rows]`.

    Raises:
        ScoreError: NaN among the scores of live connections.

    >>> make_mask_drop_minimum(torch.tensor([4.0, 3.0, 2.0, 9.0]),
    ...                        torch.tensor([True, True, True, False]), 0.4)
    (tensor([ True, False, False, False]), tensor([1]))
    """
    _check_same_shape(score, mask)
    contest = make_contest(score, score_shaper)
    live = contest.shape(mask)
    kept = [num_kept(drop_fraction, n) for n in contest.count(live)]
    new = contest.unshape(contest.select(contest.shape(score), kept, live))
    return new, torch.tensor(kept, device=mask.device)


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
        score_shaper: which entries compete; None: all.

    Returns:
        Bool mask, a superset of `mask`.

    Raises:
        ScoreError: NaN among the scores of pruned positions.

    >>> make_mask_grow_maximum(torch.tensor([0.0, 5.0, 7.0, 6.0]),
    ...                        torch.tensor([True, False, False, False]), 0.5)
    tensor([ True, False,  True, False])
    """
    _check_same_shape(score, mask)
    contest = make_contest(score, score_shaper)
    live = contest.shape(mask)
    if mask_nonzero is None:
        mask_nonzero = torch.tensor(contest.count(live), device="cpu")
    counts = torch.as_tensor(mask_nonzero, device="cpu").expand(contest.rows).tolist()
    target = num_kept(sparsity, contest.n)
    missing = [max(target - int(count), 0) for count in counts]
    return contest.unshape(live | contest.select(contest.shape(score), missing, ~live))


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
    may then be grown, until `num_kept(sparsity, n)`. The minimum matters when the level rises, and
    at the first update of a weight that starts dense.

    Args:
        weight: any shape, floating point.
        mask: bool, shaped like `weight`.
        sparsity: level to reach, 0..1.
        drop_fraction: fraction of the live connections to drop, 0..1.
        grow_score: shaped like `weight`; or a matrix in row blocks, if all entries compete.
        score_shaper: which entries compete; None: all.

    Returns:
        Bool mask with exactly `num_kept(sparsity, n)` per row.

    Raises:
        ScoreError: NaN among the scores that decide.
    """
    _check_same_shape(weight, mask)
    contest = make_contest(weight, score_shaper)
    live, target = contest.shape(mask), num_kept(sparsity, contest.n)
    stay = [min(num_kept(drop_fraction, n), target) for n in contest.count(live)]
    kept = contest.select(contest.shape(weight), stay, live, magnitude=True)
    grow = [target - n for n in stay]
    if isinstance(grow_score, Tensor):
        grown = contest.select(contest.shape(grow_score), grow, ~kept, magnitude=True)
    else:
        grown = _select_blocks(grow_score, grow[0], ~kept)
    return contest.unshape(kept.logical_or_(grown))


def _select_blocks(score: RowBlocks, num: int, among: Tensor) -> Tensor:
    """The `num` largest |score| of a whole matrix, block by block; bool `[1, numel]`."""
    cols = score.shape[1]
    best = torch.empty(0, dtype=torch.float32, device="cpu")
    where = torch.empty(0, dtype=torch.int64, device="cpu")
    for start, block in score.row_blocks():
        size, begin = block.abs_().reshape(-1), start * cols
        if bool(size.sum().isnan()):
            raise ScoreError("dense gradient")
        candidates = among[0, begin : begin + len(size)]
        if len(best) < max(num, 1):
            found = kernels.select(size.unsqueeze(0), [num], candidates.unsqueeze(0))[0]
        else:
            found = (size > best.min()).logical_and_(candidates)
        # torch's nonzero takes 8 ms for a million entries, numpy's 1.
        positions = torch.from_numpy(np.flatnonzero(found.numpy()))
        best, where = torch.cat([best, size[positions]]), torch.cat([where, positions + begin])
        if len(best) > num:
            # Positions stay ascending, so that of equal scores the lower index wins here too.
            winners = kernels.select(best.unsqueeze(0), [num])[0]
            best, where = best[winners], where[winners]
    mask = torch.zeros_like(among)
    mask[0, where] = True
    return mask


def _check_same_shape(score: Tensor, mask: Tensor) -> None:
    if score.shape != mask.shape:
        raise ShapeError("a mask", mask.shape, f"the score has shape {tuple(score.shape)}")
