"""The base of algorithms whose masks change while training: one step, in order."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.errors import AttachError, OptionTypeError, ScoreError
from sparsewright.core.events import MaskUpdate
from sparsewright.core.random_scores import uniform
from sparsewright.core.update_schedules import FreqSchedule, ListSchedule, make_update_schedule
from sparsewright.init import InitMethod
from sparsewright.kernels.sharded import all_finite
from sparsewright.runtime.attach import logger
from sparsewright.runtime.gradients import FactoredGradient
from sparsewright.runtime.parameter import SparseParameter
from sparsewright.runtime.rng import make_generator

__all__ = ["DynamicSparsityAlgorithm"]


class DynamicSparsityAlgorithm(SparsityAlgorithm):
    """Masks that change at the steps of an update schedule. A subclass writes `update_mask`.

    After each optimizer step the counter becomes n, and masks change iff the update schedule is
    true at n. If it is true at step 0, training starts sparse, from the init method; otherwise it
    starts dense and the first update sparsifies.

    Args:
        sparsity: level, 0..1, as for `SparsityAlgorithm`.
        update: None (every step), an int (every so many steps), a dict with `freq`, `start`, `stop`
            (exclusive) or with `steps`, an `UpdateSchedule`, or a function `step -> bool`.
        init_method: the mask at step 0, as for `SparsityAlgorithm`.
        seed: seed of the algorithm's own randomness.

    Attributes:
        needs_dense_gradient: a subclass sets it True to have `dense_gradient` on update steps.
        update_schedule: the update schedule.
    """

    needs_dense_gradient: ClassVar[bool] = False

    def __init__(
        self,
        sparsity: Any = None,
        update: Any = None,
        init_method: str | InitMethod = "random",
        *,
        seed: int = 0,
    ) -> None:
        self.update_schedule = make_update_schedule(update)
        self._updating: tuple[Tensor, SparseParameter] | None = None
        self._step = 0
        super().__init__(sparsity, init_method, seed=seed)

    @abstractmethod
    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """The new mask of one weight.

        Args:
            p: the weight, zero where `mask` is False.
            mask: bool, shaped like `p`: the mask so far; not to be written to.
            sparsity: level to reach, 0..1; a 0-d tensor, float64 if it was given as it is.

        Returns:
            Bool mask, shaped like `p`.
        """

    @property
    def is_update_step(self) -> Tensor:
        """Whether masks change, or changed, at the present `step`; 0-d bool tensor."""
        return self.update_schedule(self.step)

    @property
    def starts_sparse(self) -> bool:
        """Whether step 0 is an update step: weights are sparse before the first step."""
        return self._is_due(0)

    def scheduled(self, name: str) -> Tensor:
        """The value of one of `schedules` at the step whose masks are being updated.

        Args:
            name: the schedule's name, such as `"drop_fraction"`.

        Returns:
            0-d tensor, clamped to 0..1.
        """
        return self.schedules.value(name, self._step)

    def dense_gradient(self, p: Tensor) -> Tensor:
        """The gradient of this step before pruning, summed over micro-batches; shaped like `p`.

        There on update steps, inside `update_mask`, if `needs_dense_gradient`.
        """
        grad = self._gradient(p)
        return grad.dense() if isinstance(grad, FactoredGradient) else grad

    def _gradient(self, p: Tensor) -> Tensor | FactoredGradient:
        """The dense gradient; that of a compressed weight not multiplied out."""
        parameter = self._being_updated("dense_gradient of", p)
        grad = self._attachment.dense_gradients.get(parameter)
        if grad is None:
            raise OptionTypeError("dense_gradient", p, "needs_dense_gradient = True in the class")
        return grad

    def _being_updated(self, what: str, p: Tensor) -> SparseParameter:
        if self._updating is None or self._updating[0] is not p:
            raise OptionTypeError(what, p, "the weight that update_mask was called with")
        return self._updating[1]

    def generator(self, p: Tensor) -> torch.Generator:
        """A CPU generator for this weight at this step: the same on every rank and on resuming."""
        return make_generator(self.seed, self._being_updated("generator of", p).name, self._step)

    def random_score(self, p: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), float32, shaped like `p`, from `generator(p)`.

        Also for a sharded weight, where each rank gets its own part of the same numbers.
        """
        return uniform(p, self.generator(p))

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Count a step, prune what it wrote and, if masks are due, change them.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
        """
        step, parameters = self._begin_step(optimizer)
        try:
            if self._is_due(step):
                if self.needs_dense_gradient:
                    self._attachment.dense_gradients.average(parameters)
                for parameter in parameters:
                    self._update_parameter(parameter, step)
        finally:
            if self.needs_dense_gradient:
                self._attachment.dense_gradients.disarm(parameters)
            self._arm(parameters, step + 1)
        self._end_step(step, parameters)

    @torch.no_grad()
    def _update_parameter(self, parameter: SparseParameter, step: int) -> None:
        if not self._has_gradient(parameter):
            return
        level = self.schedules.value(self._level_of(parameter), step)
        weight, mask = parameter.storage.weight(), parameter.mask
        self._updating, self._step = (weight, parameter), step
        try:
            new = self.update_mask(weight, mask, level)
        except ScoreError as error:
            raise ScoreError(f"{error.what} of {parameter.name} at step {step}") from None
        finally:
            self._updating = None
        self._attachment.dense_gradients.forget(parameter)
        self._check_room(parameter, new)
        dropped, grown = parameter.change_mask(new)
        if self._hooks.has("mask"):
            computed, total = parameter.computed_sparsity, mask.numel()
            self._hooks.call(
                "mask",
                MaskUpdate(
                    step,
                    parameter.name,
                    total,
                    parameter.kept,
                    float(level),
                    computed,
                    dropped,
                    grown,
                ),
            )

    def _check_room(self, parameter: SparseParameter, new: Tensor) -> None:
        """Replicas exchange gradients in buffers that were laid out once."""
        if not parameter.is_compressed or self._attachment.dense_gradients.group is None:
            return
        kept = int(new.sum())
        if kept != parameter.kept:
            raise AttachError(
                parameter.name,
                f"its level moves, from {parameter.kept} live connections to {kept}, which a "
                "compressed weight cannot under data parallelism; use storage 'masked' for it",
            )

    def _has_gradient(self, parameter: SparseParameter) -> bool:
        """Whether there is a finite gradient, without which the mask stays as it is."""
        grads: list[Tensor | FactoredGradient | None] = [parameter.param.grad]
        if self.needs_dense_gradient:
            grads.append(self._attachment.dense_gradients.get(parameter))
        for grad in grads:
            if grad is None:
                is_lost = parameter.param.grad is not None and bool(parameter.param.grad.any())
                level = logging.WARNING if is_lost else logging.INFO
                what = "its gradient came pruned" if is_lost else "no gradient"
                logger.log(level, "%s: %s, the mask stays", parameter.name, what)
                return False
            if not (grad.is_finite() if isinstance(grad, FactoredGradient) else all_finite(grad)):
                logger.warning("%s: the gradient is not finite, the mask stays", parameter.name)
                return False
        return True

    def _arm(self, parameters: list[SparseParameter], coming_step: int) -> None:
        """Collect dense gradients for the coming step if it needs them, and else do not."""
        if self.needs_dense_gradient:
            dense = self._attachment.dense_gradients
            if self._is_due(coming_step):
                dense.arm(parameters)
            else:
                dense.disarm(parameters)

    def after_state_change(self) -> None:
        """Hook what is new, and collect dense gradients if the coming step needs them."""
        super().after_state_change()
        if self.needs_dense_gradient:
            attachment = self._attachment
            coming = dict.fromkeys(attachment.parameters.values(), self.step + 1)
            for slot, optimizer in enumerate(attachment.optimizers):
                steps = self._steps[slot] if slot < len(self._steps) else 0
                coming |= dict.fromkeys(attachment.of(optimizer), steps + 1)
            for parameter, step in coming.items():
                self._arm([parameter], step)

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        if self.starts_sparse:
            return super()._make_mask(parameter)
        return torch.ones_like(parameter.mask)

    def _is_due(self, step: int) -> bool:
        return bool(self.update_schedule(step))

    def _level_steps(self) -> tuple[int, int | None]:
        schedule = self.update_schedule
        if isinstance(schedule, ListSchedule) and schedule.steps:
            return schedule.steps[0], schedule.steps[-1]
        if isinstance(schedule, FreqSchedule):
            stop = None if schedule.stop is None else max(schedule.stop - 1, schedule.start)
            return schedule.start, stop
        return 0, None
