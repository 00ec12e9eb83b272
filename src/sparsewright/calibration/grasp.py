"""GraSP, which scores a weight by its effect on the norm of the gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsewright.calibration.losses import (
    Labelled,
    Losses,
    LossFunction,
    labelled,
    ranks_of,
)
from sparsewright.calibration.scored_weights import (
    check_scores,
    product,
    tensors_at,
    weights_to_score,
    widened,
)
from sparsewright.calibration.untouched import untouched
from sparsewright.core.filters import FilterLike, default_sparse_param_filter
from sparsewright.errors import CalibrationError, OptionError, OptionTypeError
from sparsewright.torch_private import map_tensors


def grasp(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[object],
    *,
    temperature: float = 200.0,
    halves: bool = True,
    param_filter: FilterLike = default_sparse_param_filter,
) -> dict[str, Tensor]:
    """Return GraSP scores: `w * (H g)`, with the gradient g and the Hessian H of the mean loss.

    Pruning the lowest scores reduces the norm of the gradient least. Scores can be negative. H is
    multiplied by g without being computed. The means are taken over the batches, or with `halves`
    over the halves of the batches.

    Attention runs in the plain implementation of `scaled_dot_product_attention`, since the fused
    ones have no second derivative.

    Args:
        model: the model, before training. It is not changed; see `snip`.
        loss_fn: a function `(model, batch) -> loss`, as for `snip`. It must compute the loss from
            the model's output, which the temperature divides.
        batches: an iterable of batches; they are kept in a list, since each is used twice.
        temperature: the model that `loss_fn` receives returns its output divided by this number,
            > 0. The output must be a tensor, or an object whose attribute `logits` is the tensor
            to divide. With 1, any output is accepted.
        halves: split each batch in two, as the authors do. The tensors of a batch must have the
            examples in dimension 0. A batch with an odd number of examples has a smaller first
            half, whose loss counts as much as that of the other half.
        param_filter: which weights get scores, as for `snip`.

    Returns:
        `{full name: score}`, as from `snip`.

    Raises:
        CalibrationError: `loss_fn` does not call the model, or the model returns a loss of its
            own, which the temperature does not change; a batch cannot be split; or as for `snip`.
        OptionError: `temperature` is not a finite number > 0; or as for `snip`.
        OptionTypeError: the model's output has no tensor to divide; or as for `snip`.
        AttachError, ScoreError: as for `snip`.

    Source: C. Wang, G. Zhang, R. Grosse, "Picking winning tickets before training by preserving
    gradient flow", arXiv:2002.07376.
    """
    _check_temperature(temperature)
    places = weights_to_score(model, param_filter)
    with untouched(model) as inner, sdpa_kernel(SDPBackend.MATH):
        weights, parts = tensors_at(places), list(labelled(batches))
        if halves:
            parts = [half for batch in parts for half in _halves(*batch)]
        losses = Losses(inner, _divided(loss_fn, float(temperature)), ranks_of(model))
        first = losses.mean_gradient(weights, parts)
        second = losses.mean_gradient(weights, parts, _product_with_hessian(list(first.values())))
        scale = float(temperature) ** 2  # of the losses, once for g and once for H
        scores = {name: product(w, second[name]) / scale for name, w in weights.items()}
        return check_scores(scores)


def _check_temperature(temperature: float) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise OptionTypeError("temperature", temperature, "a number > 0")
    if not 0 < temperature < math.inf:
        raise OptionError("temperature", temperature, "a finite number > 0")


def _product_with_hessian(
    vectors: Sequence[Tensor],
) -> Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]:
    """Return a function that multiplies the Hessian of a loss by fixed vectors.

    Args:
        vectors: one tensor for each weight, with its shape.
    """

    def multiply(loss: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        terms = [
            torch.real(vector.conj() * widened(gradient)).sum().to(loss.device)
            for vector, gradient in zip(vectors, gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not terms:  # the loss is linear in the weights
            return [torch.zeros_like(weight) for weight in weights]
        total = torch.stack(terms).sum()
        found = torch.autograd.grad(total, weights, allow_unused=True)
        return [
            torch.zeros_like(weight) if product is None else product
            for weight, product in zip(weights, found, strict=True)
        ]

    return multiply


def _divided(loss_fn: LossFunction, temperature: float) -> LossFunction:
    """Return a loss function that calls another one with a model whose output is divided.

    The loss is multiplied by the temperature, so that its gradients do not vanish in float16.
    """
    if temperature == 1:
        return loss_fn

    def divided_loss(model: nn.Module, batch: Any) -> Tensor:
        with _dividing(model, temperature) as calls:
            loss = loss_fn(model, batch)
        if not calls:
            raise CalibrationError(
                "loss_fn",
                "it does not call the model that it receives, so the temperature has no effect; "
                "call model(...), or pass temperature=1",
            )
        return loss * temperature if isinstance(loss, Tensor) else loss

    return divided_loss


@contextmanager
def _dividing(model: nn.Module, temperature: float) -> Iterator[list[None]]:
    """Divide the output of a model inside the block; yield a list with an entry for each call."""
    calls: list[None] = []

    def divide(module: nn.Module, args: Any, output: Any) -> Any:
        calls.append(None)
        return _divide(output, temperature)

    handle = model.register_forward_hook(divide)
    try:
        yield calls
    finally:
        handle.remove()


def _divide(output: Any, temperature: float) -> Any:
    """Return a model's output divided by the temperature."""
    if isinstance(output, Tensor):
        return output / temperature
    if isinstance(getattr(output, "loss", None), Tensor):
        problem = (
            "its output has a loss, which the temperature does not change; do not pass labels to "
            "the model, and compute the loss from the logits in loss_fn, or pass temperature=1"
        )
        raise CalibrationError("the model", problem)
    if not isinstance(getattr(output, "logits", None), Tensor) or isinstance(output, tuple):
        allowed = "a tensor, or an object with a tensor `logits`, for temperature to divide it"
        advice = "For any other output, pass temperature=1."
        raise OptionTypeError("the output of the model", output, allowed, advice)
    divided = copy.copy(output)
    divided.logits = output.logits / temperature
    return divided


def _halves(label: str, batch: Any) -> list[Labelled]:
    """Return the two halves of a batch.

    Raises:
        CalibrationError: the batch has one example or no tensor with examples, or its tensors have
            different numbers of examples.
    """
    sizes = list(dict.fromkeys(len(tensor) for tensor in _tensors_of(batch) if tensor.ndim))
    if len(sizes) != 1:
        problem = f"its tensors have {' and '.join(map(str, sizes))} rows in dimension 0"
        problem = problem if sizes else "it has no tensor with examples in dimension 0"
        raise CalibrationError(label, f"it cannot be halved, because {problem}; pass halves=False")
    (size,) = sizes
    if size < 2:
        problem = f"it cannot be halved, because it has {size} example; pass larger batches"
        raise CalibrationError(label, f"{problem} or halves=False")
    middle = size // 2
    return [
        (f"the first half of {label}", _map(lambda tensor: tensor[:middle], batch)),
        (f"the second half of {label}", _map(lambda tensor: tensor[middle:], batch)),
    ]


def _tensors_of(batch: Any) -> list[Tensor]:
    """Return all tensors of a batch."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(note, batch)
    return found


def _map(fn: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply a function to each tensor of a batch that is not a number."""

    def change(tensor: Tensor) -> Tensor:
        return fn(tensor) if tensor.ndim else tensor

    if isinstance(batch, MutableMapping) and not isinstance(batch, dict):  # transformers' batches
        changed = copy.copy(batch)
        changed.update({key: map_tensors(change, value) for key, value in batch.items()})
        return changed
    return map_tensors(change, batch)
