"""FORCE and iterative SNIP, which prune in rounds and score the pruned model again."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from sparsewright.calibration.losses import Losses, LossFunction, labelled, ranks_of
from sparsewright.calibration.rounds import check_rounds, score_in_rounds, warn_of_empty
from sparsewright.calibration.scored_weights import tensors_at, weights_to_score
from sparsewright.calibration.untouched import untouched
from sparsewright.core.counts import Level
from sparsewright.core.filters import FilterLike, default_sparse_param_filter


def force(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[object],
    *,
    rounds: int,
    sparsity: Level,
    regrow: bool = True,
    param_filter: FilterLike = default_sparse_param_filter,
) -> dict[str, Tensor]:
    """Return FORCE scores: `|w * g|`, where g is the gradient of the pruned model.

    Round i of T keeps the fraction `(1 - sparsity) ** (i / T)` of all weights together, those with
    the highest scores. The next round computes the gradient of the model with only these weights.
    The result is the scores of the last round. With `rounds=1` they are those of `snip`.

    Args:
        model: the model, before training. It is not changed; see `snip`.
        loss_fn: a function `(model, batch) -> loss`, as for `snip`.
        batches: an iterable of batches; they are kept in a list, since every round uses all.
        rounds: number of rounds T, 1 or more. The authors' code uses 10.
        sparsity: level of the last round, at least 0 and less than 1. Use the scores at this
            level.
        regrow: True for FORCE, in which w is the weight of the dense model, so pruned weights can
            return. False for iterative SNIP, in which pruned weights have the score 0 and cannot
            return.
        param_filter: which weights get scores, as for `snip`.

    Returns:
        `{full name: score}`, as from `snip`. One warning names the weights that keep no entry.

    Raises:
        LevelError: `sparsity` is out of range.
        OptionError: `rounds` is less than 1; or as for `snip`.
        OptionTypeError: `rounds` is not an integer; or as for `snip`.
        AttachError, CalibrationError, ScoreError: as for `snip`.

    Source: P. de Jorge et al., "Progressive skeletonization: trimming more fat from a network at
    initialization", arXiv:2006.09081.
    """
    check_rounds(rounds, sparsity)
    places = weights_to_score(model, param_filter)
    with untouched(model) as inner:
        weights, data = tensors_at(places), list(labelled(batches))
        losses = Losses(inner, loss_fn, ranks_of(model))
        scores, live = score_in_rounds(
            weights,
            lambda: losses.mean_gradient(weights, data),
            rounds=rounds,
            sparsity=sparsity,
            regrow=regrow,
        )
    warn_of_empty("FORCE", sparsity, live)
    return scores
