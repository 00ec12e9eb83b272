"""OWL levels, which keep blocks with more outliers among their scores denser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sparsewright.core.counts import Level, as_decimal
from sparsewright.errors import OptionError, OptionTypeError, ScoreError
from sparsewright.kernels import sharded


def owl(
    scores: Mapping[str, Sequence[Tensor]],
    sparsity: Level,
    *,
    m: float = 5,
    spread: float = 0.08,
) -> dict[str, float]:
    """Return the level of each block by its share of outliers (OWL).

    The outliers of a block are its scores above `m` times the mean of its scores, over all of its
    tensors together. With the shares D of outliers, a block gets the density
    `2 * spread * (D - min(D)) / (max(D) - min(D)) + c`, clipped to 0..1, where the constant c makes
    the mean density of the blocks `1 - sparsity`. If all shares are equal, levels are uniform.

    Each block counts once in the mean, independent of its size. Compute the scores before pruning.

    Args:
        scores: `{block: scores of each of its weights}`, each score >= 0, of any shapes. In the
            paper a score is `|weight| * norm of its input`, as in Wanda. Scores can be sharded if
            all ranks call this function.
        sparsity: mean level of the blocks, 0..1.
        m: factor that makes a score an outlier, > 0.
        spread: half of the difference between the largest and the smallest density, 0..1.

    Returns:
        `{block: level}`, for all weights of the block.

    Raises:
        LevelError: `sparsity` or `spread` is outside 0..1.
        OptionError: `m` is out of range, or a block has no scores.
        OptionTypeError: `m` is not a number.
        ScoreError: the scores of a block contain NaN.

    >>> scores = {"first": [torch.tensor([1.0, 1.0, 1.0, 97.0])], "second": [torch.ones(4)]}
    >>> levels = owl(scores, 0.7, m=3)
    >>> {block: round(level, 3) for block, level in levels.items()}
    {'first': 0.62, 'second': 0.78}

    Source: L. Yin et al., "Outlier weighed layerwise sparsity (OWL)", arXiv:2310.05175.
    """
    if isinstance(m, bool) or not isinstance(m, int | float):
        raise OptionTypeError("m", m, "a number > 0")
    if not 0 < m < math.inf:
        raise OptionError("m", m, "a number > 0")
    width, density = 2 * float(as_decimal(spread, "spread")), 1 - float(as_decimal(sparsity))
    shares = [_outliers(block, each, m) for block, each in scores.items()]
    least, most = min(shares, default=0.0), max(shares, default=0.0)
    if least == most:
        return dict.fromkeys(scores, float(as_decimal(sparsity)))
    wanted = [width * (share - least) / (most - least) for share in shares]
    constant = _constant(wanted, density)
    return {
        block: 1 - min(max(each + constant, 0.0), 1.0)
        for block, each in zip(scores, wanted, strict=True)
    }


def _outliers(block: str, scores: Sequence[Tensor], m: float) -> float:
    """Return the fraction of a block's scores that are larger than `m` times their mean."""
    number = sum(score.numel() for score in scores)
    if not number:
        raise OptionError("scores", scores, f"at least one score for the block {block!r}")
    total = sum(_over_ranks(score, _sum(score)) for score in scores)
    if math.isnan(total):
        raise ScoreError(f"the scores of {block}")
    bar = m * total / number
    return sum(_over_ranks(score, _count_above(score, bar)) for score in scores) / number


def _sum(score: Tensor) -> Tensor:
    """Return the sum of this rank's part of a score in float64."""
    return sharded.local(score).detach().sum(dtype=torch.float64)


def _count_above(score: Tensor, bar: float) -> Tensor:
    """Return how many scores of this rank's part are larger than a bar, compared in float64."""
    return (sharded.local(score).detach().double() > bar).sum()


def _over_ranks(score: Tensor, value: Tensor) -> float:
    return float(sharded.sum_over(value, sharded.group_of(score)))


def _constant(wanted: Sequence[float], mean: float) -> float:
    """Return the constant c for which `clip(wanted + c, 0, 1)` has the given mean, 0..1."""

    def total(constant: float) -> float:
        return sum(min(max(each + constant, 0.0), 1.0) for each in wanted)

    # The sum is linear between the constants at which a density starts or ends to be clipped.
    ends = sorted({-each for each in wanted} | {1 - each for each in wanted})
    aim = mean * len(wanted)
    for low, high in pairwise(ends):
        start, stop = total(low), total(high)
        if aim <= stop:
            return low + (high - low) * max(aim - start, 0.0) / ((stop - start) or 1)
    return ends[-1]
