"""Scalar metrics of sparse weights, for any logger."""

from __future__ import annotations

import math
from collections.abc import Callable
from os import PathLike, fspath

import torch
from torch import Tensor

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.hooks import HandleGroup, Removable
from sparsewright.errors import OptionError, OptionTypeError, needs
from sparsewright.events import MaskUpdate
from sparsewright.kernels.sharded import whole
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.stepping import Step

__all__ = ["TensorBoard", "log_metrics"]

LogFunction = Callable[[dict[str, float], int], object]
"""A function `(scalars by name, step)`; its return value is ignored."""


def log_metrics(sparsity: SparsityAlgorithm, log: LogFunction, *, every: int = 1) -> Removable:
    """Call `log(scalars, step)` after the steps of a sparsified optimizer.

    Each call logs these scalars for every sparse parameter that the optimizer stepped:

    - `sparsity/<name>/target` and `sparsity/<name>/actual`: the requested level, and the level
      measured from the mask;
    - `sparsity/<name>/churn`: `(dropped + grown) / kept` of the last mask update, if there was one
      since the last call;
    - `sparsity/<name>/grad_norm`: the L2 norm of the pruned gradient that the optimizer used. The
      norm of a sharded gradient is a collective operation, so every rank must log.

    Each call also logs the totals `sparsity/churn` and `sparsity/grad_norm` over these parameters,
    and `sparsity/target` and `sparsity/actual` over all sparse parameters. If there are several
    optimizers, each has its own call after its own steps. Steps that are not logged cost almost
    nothing, because they compute no norm.

    ::

        log_metrics(sparsity, wandb.log)
        log_metrics(sparsity, lambda scalars, step: module.log_dict(scalars))
        log_metrics(sparsity, TensorBoard("runs/1"), every=10)

    Args:
        sparsity: any algorithm; a Group makes one call for all of its algorithms.
        log: a function that accepts a dict of floats by name and the number of completed steps.
        every: number of steps between calls, >= 1.

    Returns:
        A handle; call its `.remove()` to stop logging.

    Raises:
        OptionTypeError: an argument has the wrong type.
        OptionError: `every` is less than 1.
    """
    if not isinstance(sparsity, SparsityAlgorithm):
        raise OptionTypeError("sparsity", sparsity, "a SparsityAlgorithm")
    if not callable(log):
        raise OptionTypeError("log", log, "a function (scalars, step)")
    if isinstance(every, bool) or not isinstance(every, int):
        raise OptionTypeError("every", every, "an integer >= 1")
    if every < 1:
        raise OptionError("every", every, "an integer >= 1")
    return _Collector(sparsity, log, every).attach()


class _Collector:
    """Collect the scalars of one step from the hooks of a session."""

    def __init__(self, sparsity: SparsityAlgorithm, log: LogFunction, every: int) -> None:
        self.sparsity, self.log, self.every = sparsity, log, every
        self.norms: dict[str, float] = {}
        self.updates: dict[str, MaskUpdate] = {}

    def attach(self) -> Removable:
        """Register hooks on the algorithm or the Group."""
        hooks = self.sparsity._hooks
        return HandleGroup(
            [
                hooks.register("begin", self._begin),
                hooks.register("mask", self._updated),
                hooks.register("end", self._end),
            ]
        )

    def _own(self, step: Step) -> list[SparseParameter]:
        """Return the parameters of the algorithm that were stepped."""
        return [p for rule in self.sparsity.algorithms for p in step.of(rule)]

    def _begin(self, step: Step) -> None:
        """Record gradient norms after the optimizer's step and before the mask update."""
        if step.number % self.every == 0:
            for parameter in self._own(step):
                if parameter.param.grad is not None:
                    self.norms[parameter.name] = _norm(parameter.param.grad)

    def _updated(self, update: MaskUpdate) -> None:
        """Record a mask update."""
        self.updates[update.name] = update

    def _end(self, step: Step) -> None:
        """Log the scalars at the end of a step."""
        if step.number % self.every == 0:
            scalars = self._scalars(step)
            if scalars:
                self.log(scalars, self.sparsity.step)

    def _scalars(self, step: Step) -> dict[str, float]:
        """Return the scalars for each parameter that was stepped, and their totals."""
        scalars: dict[str, float] = {}
        updates: list[MaskUpdate] = []
        norms: list[float] = []
        for p in self._own(step):
            prefix = f"sparsity/{p.name}"
            scalars[f"{prefix}/target"] = float(p.rule.level_at(p, step.number))
            scalars[f"{prefix}/actual"] = p.computed_sparsity
            update = self.updates.pop(p.name, None)
            if update is not None:
                updates.append(update)
                scalars[f"{prefix}/churn"] = update.churn
            norm = self.norms.pop(p.name, None)
            if norm is not None:
                norms.append(norm)
                scalars[f"{prefix}/grad_norm"] = norm
        return scalars | self._totals(step, updates, norms) if scalars else scalars

    def _totals(
        self, step: Step, updates: list[MaskUpdate], norms: list[float]
    ) -> dict[str, float]:
        """Return the scalars over all parameters."""
        kept, total, asked = 0, 0, 0.0
        for p in self.sparsity.sparse_params.values():
            kept, total = kept + p.kept, total + p.shape.numel()
            asked += float(p.rule.level_at(p, step.number)) * p.shape.numel()
        totals = {
            "sparsity/target": asked / max(1, total),
            "sparsity/actual": 1 - kept / max(1, total),
        }
        if updates:
            changed = sum(update.dropped + update.grown for update in updates)
            totals["sparsity/churn"] = changed / max(1, sum(update.kept for update in updates))
        if norms:
            totals["sparsity/grad_norm"] = math.hypot(*norms)
        return totals


def _norm(grad: Tensor) -> float:
    """Return the L2 norm, computed in float32 for 16-bit gradients."""
    is_short = grad.dtype in (torch.float16, torch.bfloat16)
    norm = torch.linalg.vector_norm(grad, dtype=torch.float32 if is_short else None)
    return float(whole(norm))


class TensorBoard:
    """Write scalars for TensorBoard; pass it to `log_metrics`, or use it in a `with` block.

    Args:
        folder: folder for the event files; created if it does not exist.
        start: the first step to write; TensorBoard hides what earlier files contain from this
            step on.

    Raises:
        MissingPackageError: TensorBoard is not installed (extra `tensorboard`).
    """

    def __init__(self, folder: str | PathLike[str], start: int | None = None) -> None:
        with needs("writing for TensorBoard", "tensorboard", extra="tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(fspath(folder), purge_step=start)

    def __call__(self, scalars: dict[str, float], step: int) -> None:
        """Write the scalars of one step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the buffered scalars and close the file."""
        self._writer.close()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
