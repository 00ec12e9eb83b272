"""Base class of algorithms whose masks change during training."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.structure import RowBlocks
from sparsewright.errors import AlgorithmError
from sparsewright.init import InitMethod
from sparsewright.schedules import UpdateLike
from sparsewright.schedules.parse import make_update_schedule
from sparsewright.schedules.reach import why_not_reached
from sparsewright.session.mask_updates import change_masks
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.settings import Choices, LevelLike
from sparsewright.session.weight_update import WeightUpdate

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DynamicSparsityAlgorithm"]

logger = logging.getLogger("sparsewright")


class DynamicSparsityAlgorithm(SparsityAlgorithm):
    """Change masks at the steps of an update schedule; a subclass implements `update_mask`.

    After each optimizer step the step counter becomes n, and masks change if and only if the
    update schedule is true at n. If the schedule is true at step 0, training starts sparse with
    the mask of the init method. Otherwise training starts dense and the first update sparsifies.

    A method that needs all weights together implements `update_masks` instead.

    Args:
        sparsity: sparsity level, 0..1, as for `SparsityAlgorithm`.
        update: None (every step), an int (every n steps), a dict with `freq`, `start`, `stop`
            (exclusive) or with `steps`, an `UpdateSchedule`, or a function `step -> bool`.
        init_method: makes the mask at step 0, as for `SparsityAlgorithm`.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Attributes:
        needs_dense_gradient: True in a subclass that reads `dense_gradient` on update steps.
        needs_gradient: whether a weight without a gradient keeps its mask. A subclass that reads
            only weights sets it to False. A frozen weight always keeps its mask.
        selections: the selections of one update, as for `SparsityAlgorithm`. A subclass that does
            not select from all entries by |w| overrides it.
        update_schedule: the update schedule.
    """

    selections: ClassVar[tuple[tuple[str, str], ...]] = (("all", "weight"),)
    needs_gradient: ClassVar[bool] = True

    def __init__(
        self,
        sparsity: LevelLike | None = None,
        update: UpdateLike = None,
        init_method: str | InitMethod = "random",
        **choices: Unpack[Choices],
    ) -> None:
        self.update_schedule = make_update_schedule(update)
        self._updating: WeightUpdate | None = None
        super().__init__(sparsity, init_method, **choices)
        for name, level in self.schedules.items():
            if problem := why_not_reached(level, self.update_schedule):
                logger.warning("%s of %s %s", name, type(self).__name__, problem)

    def update_masks(self, updates: Sequence[WeightUpdate]) -> Iterable[Tensor]:
        """Yield the new mask of each weight, in order; by default the result of `update_mask`.

        Each mask is in place before the next one is requested.

        Args:
            updates: the weights to update, each with the data that an update may read.
        """
        for update in updates:
            self._updating, self._structure_now = update, update.structure
            try:
                yield self.update_mask(update.weight, update.mask, update.level)
            finally:
                self._updating = self._structure_now = None

    @abstractmethod
    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Return the new mask of one weight.

        Args:
            p: the weight, which is zero where `mask` is False; a shadowed weight is dense.
            mask: the current mask, bool, shaped like `p`; do not write to it.
            sparsity: the level to reach, 0..1, as a 0-d tensor; float64 if the user gave this
                number, else float32.

        Returns:
            The new mask, bool, shaped like `p`.
        """

    @property
    def is_update_step(self) -> Tensor:
        """Return whether masks change, or changed, at the current `step`; a 0-d bool tensor."""
        return self.update_schedule(self.step)

    @property
    def starts_sparse(self) -> bool:
        """Return whether step 0 is an update step, so that training starts with sparse weights."""
        return self._is_due(0)

    def scheduled(self, name: str) -> Tensor:
        """Return the value of one of `schedules` at the step of the current update.

        Args:
            name: the schedule's name, such as `"drop_fraction"`.

        Returns:
            A 0-d tensor, clamped to 0..1.
        """
        step = self.step if self._updating is None else self._updating.step
        return self.schedules.value(name, step)

    def dense_gradient(self, p: Tensor) -> Tensor:
        """Return the gradient of this step before pruning, shaped like `p`.

        The gradient is summed over micro-batches. It is available inside `update_mask` on update
        steps, if `needs_dense_gradient` is True.
        """
        return self._updated("dense_gradient", p).gradient()

    def gradient_score(self, p: Tensor) -> Tensor | RowBlocks:
        """Return `dense_gradient` as a score.

        For a compressed weight, the dense gradient is never materialized as a whole.
        """
        return self._updated("gradient_score", p).dense_gradient().score()

    def generator(self, p: Tensor) -> torch.Generator:
        """Return a CPU generator for this weight and step, which is the same on every rank."""
        return self._updated("generator", p).generator()

    def random_score(self, p: Tensor) -> Tensor:
        """Return uniform numbers in [0, 1), float32, shaped like `p`, from `generator(p)`.

        If the weight is sharded, each rank gets its own part of the same numbers.
        """
        return self._updated("random_score", p).random()

    def _updated(self, what: str, p: Tensor) -> WeightUpdate:
        """Return the current update; raise AlgorithmError outside `update_mask`."""
        if self._updating is None or self._updating.weight is not p:
            problem = "call it inside update_mask, with the weight that update_mask received"
            raise AlgorithmError(f"{type(self).__name__}.{what}", problem)
        return self._updating

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Count a step, prune the weights that it wrote, and change the masks if they are due.

        Args:
            optimizer: the optimizer that stepped; None means that all parameters were stepped.
        """
        with self.session.stepping(optimizer, [self]) as step:
            if self.session.is_due(self, step.number):
                change_masks(self.session, self, step)

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the update steps among `0..until`, ascending."""
        return self.update_schedule.steps(until)

    @property
    def planned_steps(self) -> int | None:
        """Return the run length that the update schedule implies; None if it has no limit."""
        return self.update_schedule.planned_steps

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        if self.starts_sparse:
            return super()._make_mask(parameter)
        return torch.ones_like(parameter.mask)

    def _is_due(self, step: int) -> bool:
        return self.update_schedule.is_due(step)

    def _level_steps(self) -> tuple[int, int | None]:
        schedule = self.update_schedule
        return schedule.first_step or 0, schedule.last_step
