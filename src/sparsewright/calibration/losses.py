"""Losses of a model on batches of data, and their mean gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparsewright.calibration.scored_weights import widened
from sparsewright.errors import CalibrationError, OptionError, OptionTypeError
from sparsewright.kernels import sharded
from sparsewright.session import replicas

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LossFunction = Callable[..., Tensor]
"""A function `(model, batch) -> loss`; the loss is a scalar tensor."""

Labelled = tuple[str, object]
"""A batch and its name in error messages."""

Differentiate = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor | None]]
"""A function `(loss, weights) -> gradients`; a gradient is None if the loss ignores the weight."""


def labelled(batches: Iterable[object]) -> Iterator[Labelled]:
    """Yield the name and the data of each batch.

    Raises:
        OptionTypeError: `batches` is not an iterable of batches.
        OptionError: there is no batch.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        allowed = "an iterable of batches, such as a list or a DataLoader"
        raise OptionTypeError("batches", batches, allowed)
    count = 0
    for batch in batches:
        yield f"batches[{count}]", batch
        count += 1
    if not count:
        advice = "An iterator is empty after its first use; pass a list instead."
        raise OptionError("batches", batches, "an iterable with at least one batch", advice=advice)


def gradient_of(loss: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the gradient of a loss by each weight."""
    return torch.autograd.grad(loss, weights, allow_unused=True)


@dataclass
class Losses:
    """Losses of a model on batches.

    Args:
        model: the model that the loss function receives.
        loss_fn: a function `(model, batch) -> loss`.
        group: ranks over which gradients are averaged; None: this process only.
    """

    model: nn.Module
    loss_fn: LossFunction
    group: ProcessGroup | None = None

    def mean_gradient(
        self,
        weights: Mapping[str, Tensor],
        batches: Iterable[Labelled],
        differentiate: Differentiate = gradient_of,
    ) -> dict[str, Tensor]:
        """Return the mean gradient over batches and ranks, in float32 or better.

        Args:
            weights: the weights by full name.
            batches: the batches, each with its name.
            differentiate: computes the gradients of one loss.

        Raises:
            CalibrationError: a loss is not finite, or no loss depends on one of the weights.
            OptionTypeError: a loss is not a scalar tensor.
        """
        totals = {name: widened(torch.zeros_like(weight)) for name, weight in weights.items()}
        uses = torch.zeros(len(weights) + 1, dtype=torch.int64, device="cpu")  # last: of batches
        for label, batch in batches:
            gradients = differentiate(self.loss(label, batch), list(weights.values()))
            for place, (name, gradient) in enumerate(zip(weights, gradients, strict=True)):
                if gradient is not None:
                    totals[name] += gradient
                    uses[place] += 1
            uses[-1] += 1
        counts = self._over_ranks(totals, uses)
        for name, count in zip(weights, counts, strict=False):
            if not count:
                raise CalibrationError(
                    name,
                    "the loss does not depend on it; use its output in loss_fn, or pass a "
                    "param_filter that excludes it",
                )
        return {name: total / counts[-1] for name, total in totals.items()}

    def _over_ranks(self, totals: Mapping[str, Tensor], uses: Tensor) -> list[int]:
        """Sum totals and counts over ranks, in place; return the counts."""
        for total in totals.values():
            sharded.sum_over(total, self.group)
        device = next(iter(totals.values())).device
        counts: list[int] = sharded.sum_over(uses.to(device), self.group).tolist()
        return counts

    def loss(self, label: str, batch: object) -> Tensor:
        """Return the loss of a batch.

        Args:
            label: name of the batch.
            batch: what `loss_fn` expects.
        """
        loss = self.loss_fn(self.model, batch)
        is_scalar = isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point()
        if not is_scalar:
            allowed = "a scalar floating-point tensor, such as the mean loss of the batch"
            raise OptionTypeError("the result of loss_fn", loss, allowed)
        value = float(loss.detach())
        if not math.isfinite(value):
            problem = f"it is {value}; check the model and this batch for NaN and infinity"
            raise CalibrationError(f"the loss of {label}", problem)
        if not loss.requires_grad:
            problem = (
                "it does not depend on the weights; loss_fn must call the model that it receives, "
                "outside torch.no_grad()"
            )
            raise CalibrationError(f"the loss of {label}", problem)
        return loss.reshape(())


def ranks_of(model: nn.Module) -> ProcessGroup | None:
    """Return the ranks of a `DistributedDataParallel` model; None for any other model."""
    group = replicas.group_of(model, replicas.AUTO)
    return None if group == replicas.AUTO else replicas.find_group(group)
