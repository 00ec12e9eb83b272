"""What a run does to its sparse weights, as scalars for any logger."""

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
"""`(scalars by name, step)`; what it returns is not used."""


def log_metrics(sparsity: SparsityAlgorithm, log: LogFunction, *, every: int = 1) -> Removable:
    """Call `log(scalars, step)` after steps of a sparsified optimizer.

    Of each sparse parameter that the optimizer stepped, by its full name:

    - `sparsity/<name>/target` and `.../actual`: the level asked for, and measured from the mask;
    - `sparsity/<name>/churn`: `(dropped + grown) / kept` of its last mask update, if there was one
      since the last call;
    - `sparsity/<name>/grad_norm`: the L2 norm of its gradient, pruned, as the optimizer saw it.
      The norm of a sharded gradient takes all ranks, so every rank must log.

    Over all of these parameters `sparsity/churn` and `sparsity/grad_norm`, and over all sparse ones
    `sparsity/actual`. Of several optimizers each has its own call after its own steps.
    Steps between cost next to nothing: no norm is computed.

    ::

        log_metrics(sparsity, wandb.log)
        log_metrics(sparsity, lambda scalars, step: module.log_dict(scalars))
        log_metrics(sparsity, TensorBoard("runs/1"), every=10)

    Args:
        sparsity: any algorithm, or a Group, which makes one call for all of the algorithms in it.
        log: called with a dict of floats by name, and the number of steps completed.
        every: steps from one call to the next, >= 1.

    Returns:
        A handle; its `.remove()` ends the calls.

    Raises:
        OptionTypeError, OptionError: one of them is not what it should be.
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
    """Gathers the scalars of one step from the hooks of a session."""

    def __init__(self, sparsity: SparsityAlgorithm, log: LogFunction, every: int) -> None:
        self.sparsity, self.log, self.every = sparsity, log, every
        self.norms: dict[str, float] = {}
        self.updates: dict[str, MaskUpdate] = {}

    def attach(self) -> Removable:
        """Hook the algorithm, or all those of a Group at once."""
        hooks = self.sparsity._hooks
        return HandleGroup(
            [
                hooks.register("begin", self._begin),
                hooks.register("mask", self._updated),
                hooks.register("end", self._end),
            ]
        )

    def _own(self, step: Step) -> list[SparseParameter]:
        """The parameters that were stepped, as far as they are the algorithm's."""
        return [p for rule in self.sparsity.algorithms for p in step.of(rule)]

    def _begin(self, step: Step) -> None:
        """The optimizer has stepped, the masks have not changed yet."""
        if step.number % self.every == 0:
            for parameter in self._own(step):
                if parameter.param.grad is not None:
                    self.norms[parameter.name] = _norm(parameter.param.grad)

    def _updated(self, update: MaskUpdate) -> None:
        self.updates[update.name] = update

    def _end(self, step: Step) -> None:
        """The step is over."""
        if step.number % self.every == 0:
            scalars = self._scalars(step)
            if scalars:
                self.log(scalars, self.sparsity.step)

    def _scalars(self, step: Step) -> dict[str, float]:
        """Of every parameter that stepped, then over all of them."""
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
        return scalars | self._totals(updates, norms) if scalars else scalars

    def _totals(self, updates: list[MaskUpdate], norms: list[float]) -> dict[str, float]:
        kept = total = 0
        for parameter in self.sparsity.sparse_params.values():
            kept, total = kept + parameter.kept, total + parameter.shape.numel()
        totals = {"sparsity/actual": 1 - kept / max(1, total)}
        if updates:
            changed = sum(update.dropped + update.grown for update in updates)
            totals["sparsity/churn"] = changed / max(1, sum(update.kept for update in updates))
        if norms:
            totals["sparsity/grad_norm"] = math.hypot(*norms)
        return totals


def _norm(grad: Tensor) -> float:
    """The L2 norm, of 16-bit numbers in float32."""
    is_short = grad.dtype in (torch.float16, torch.bfloat16)
    norm = torch.linalg.vector_norm(grad, dtype=torch.float32 if is_short else None)
    return float(whole(norm))


class TensorBoard:
    """Writes scalars for TensorBoard: a `log` for `log_metrics`, and a context manager.

    Args:
        folder: where the event files go; made if it is not there.
        start: the first step to be written: what earlier files have from there on is not shown.

    Raises:
        MissingPackageError: TensorBoard is not installed (extra `tensorboard`).
    """

    def __init__(self, folder: str | PathLike[str], start: int | None = None) -> None:
        with needs("writing for TensorBoard", "tensorboard", extra="tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(fspath(folder), purge_step=start)

    def __call__(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars of one step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered and close the file."""
        self._writer.close()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
