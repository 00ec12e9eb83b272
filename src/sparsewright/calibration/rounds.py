"""Scoring in rounds: each round prunes the model further and scores it again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.calibration.scored_weights import check_scores, product
from sparsewright.core.counts import Level, as_decimal, num_kept
from sparsewright.errors import LevelError, OptionError, OptionTypeError
from sparsewright.wording import first_of

logger = logging.getLogger("sparsewright")

Tensors = Mapping[str, Tensor]
"""A mapping `{full name: tensor}`."""


def check_rounds(rounds: int, sparsity: Level) -> None:
    """Check the options of methods that score in rounds.

    Raises:
        LevelError: the level is not at least 0 and less than 1.
        OptionError: `rounds` is less than 1.
        OptionTypeError: `rounds` is not an integer, or the level is not a number.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int):
        raise OptionTypeError("rounds", rounds, "an integer >= 1")
    if rounds < 1:
        raise OptionError("rounds", rounds, "an integer >= 1")
    if as_decimal(sparsity) == 1:
        raise LevelError("sparsity", sparsity, "at least 0 and less than 1")


def levels_of(rounds: int, sparsity: Level) -> Iterator[Level]:
    """Yield the level after each round, so that the density falls exponentially.

    Args:
        rounds: number of rounds, 1 or more.
        sparsity: level after the last round.

    >>> list(levels_of(2, 0.75))
    [0.5, 0.75]
    """
    density = 1 - float(as_decimal(sparsity))
    for number in range(1, rounds):
        yield 1 - density ** (number / rounds)
    yield sparsity


def score_in_rounds(
    weights: Tensors, gradient: Callable[[], Tensors], *, rounds: int, sparsity: Level, regrow: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Score weights by `|w * gradient|`, prune them, and repeat.

    Args:
        weights: the weights by full name, which this function prunes in place.
        gradient: returns the gradients at the pruned weights.
        rounds: number of rounds.
        sparsity: level of all weights together after the last round.
        regrow: whether w is the weight before any pruning. Otherwise pruned weights cannot return.

    Returns:
        The scores of the last round, and the masks that they give.

    Raises:
        ScoreError: a score is NaN.
    """
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    scores, live = dict[str, Tensor](), dict[str, Tensor]()
    for level in levels_of(rounds, sparsity):
        found = gradient()
        scored = dense if regrow else weights
        scores = check_scores({n: product(scored[n], found[n]).abs() for n in weights})
        live = best_of_all(scores, level, {} if regrow else live)
        with torch.no_grad():
            for name, weight in weights.items():
                kernels.prune_(weight.copy_(dense[name]), live[name])
    return scores, live


def best_of_all(scores: Tensors, level: Level, among: Tensors) -> dict[str, Tensor]:
    """Mark the `num_kept(level, N)` highest of all N scores; on ties, the earlier entries.

    Args:
        scores: the scores by full name, without NaN.
        level: level of all weights together, 0..1.
        among: bool masks of the candidates; empty if all entries are candidates.

    >>> best_of_all({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([3.0, 4.0])}, 0.5, {})
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    joined = _joined(scores)
    candidates = _joined(among)[None] if among else None
    num = num_kept(level, len(joined))
    chosen = kernels.select(joined[None], num, candidates, magnitude=False)[0]
    parts = chosen.split([score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape).to(score.device)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _joined(tensors: Tensors) -> Tensor:
    """Return all entries as one vector, on the first tensor's device."""
    device = next(iter(tensors.values())).device
    return torch.cat([tensor.reshape(-1).to(device) for tensor in tensors.values()])


def warn_of_empty(method: str, sparsity: Level, live: Tensors) -> None:
    """Log one warning that names the weights without a live entry.

    Args:
        method: name of the method.
        sparsity: level of all weights together.
        live: the masks by full name.
    """
    empty = [name for name, mask in live.items() if mask.numel() and not bool(mask.any())]
    if empty:
        logger.warning(
            "%s at sparsity %g keeps no entry of %s; lower the sparsity, or exclude these weights "
            "with a param_filter",
            *(method, float(as_decimal(sparsity)), first_of(empty)),
        )
