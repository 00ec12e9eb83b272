"""SNIP, which scores a weight by the change of the loss when it is removed."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from sparsewright.calibration.losses import Losses, LossFunction, labelled, ranks_of
from sparsewright.calibration.scored_weights import (
    check_scores,
    product,
    tensors_at,
    weights_to_score,
)
from sparsewright.calibration.untouched import untouched
from sparsewright.core.filters import FilterLike, default_sparse_param_filter


def snip(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[object],
    *,
    param_filter: FilterLike = default_sparse_param_filter,
) -> dict[str, Tensor]:
    """Return SNIP scores: `|w * g|`, where g is the gradient of the loss.

    The gradient is averaged over the batches, and for a `DistributedDataParallel` model also over
    its ranks, which must then all call this function. Weights that an algorithm has pruned have
    the score 0.

    The model runs in eval mode. Its weights, buffers, gradients, modes and hooks do not change, and
    neither do PyTorch's global random generators.

    Args:
        model: the model, before training.
        loss_fn: a function `(model, batch) -> loss` that calls the model it receives, which is
            `model` without wrappers such as DDP. The loss is a scalar, usually a mean over the
            batch.
        batches: an iterable of batches, such as a list or a DataLoader. It is read once.
        param_filter: which weights get scores: a glob, a list of globs, or a function
            `(name, param) -> bool`. By default, the weights that are sparse by default.

    Returns:
        `{full name: score}`; a score has its weight's shape and is float32, or float64 for float64
        weights. Higher is better.

    Raises:
        AttachError: a weight is sharded, compressed, lazy or on the meta device, or no weight is
            sparse by default.
        CalibrationError: a loss is not finite, or does not depend on a weight.
        OptionError: there is no batch, or the filter picks no weight.
        OptionTypeError: a loss is not a scalar tensor, or `batches` is not an iterable of batches.
        ScoreError: a score is NaN.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -3.0]]))
    >>> snip(model, lambda model, x: model(x).mean(), [torch.tensor([[1.0, 4.0]])])
    {'weight': tensor([[ 2., 12.]])}

    Source: N. Lee, T. Ajanthan, P. Torr, "SNIP: single-shot network pruning based on connection
    sensitivity", arXiv:1810.02340.
    """
    places = weights_to_score(model, param_filter)
    with untouched(model) as inner:
        weights = tensors_at(places)
        losses = Losses(inner, loss_fn, ranks_of(model))
        gradients = losses.mean_gradient(weights, labelled(batches))
        return check_scores(
            {name: product(weight, gradients[name]).abs() for name, weight in weights.items()}
        )
