"""The base of algorithms whose masks change while training: one step, in order."""

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
    """Masks that change at the steps of an update schedule. A subclass writes `update_mask`.

    After each optimizer step the counter becomes n, and masks change iff the update schedule is
    true at n. If it is true at step 0, training starts sparse, from the init method; otherwise it
    starts dense and the first update sparsifies.

    A method that looks at all weights together writes `update_masks` instead.

    Args:
        sparsity: level, 0..1, as for `SparsityAlgorithm`.
        update: None (every step), an int (every so many steps), a dict with `freq`, `start`, `stop`
            (exclusive) or with `steps`, an `UpdateSchedule`, or a function `step -> bool`.
        init_method: the mask at step 0, as for `SparsityAlgorithm`.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Attributes:
        needs_dense_gradient: a subclass sets it True to have `dense_gradient` on update steps.
        needs_gradient: whether the mask of a weight without a gradient stays; a subclass that
            looks at weights alone sets it False. The mask of a frozen weight always stays.
        selections: a subclass that does not choose its mask anew, by |w|, says what it does.
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
        """Yield the new mask of each weight, in order; by default that of `update_mask`.

        Each mask is put in place before the next one is asked for.

        Args:
            updates: the weights that are due, with all that may be looked at.
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
            p: the weight, zero where `mask` is False; a shadowed weight is dense.
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
        """Return the value of one of `schedules` at the step whose masks are being updated.

        Args:
            name: the schedule's name, such as `"drop_fraction"`.

        Returns:
            0-d tensor, clamped to 0..1.
        """
        step = self.step if self._updating is None else self._updating.step
        return self.schedules.value(name, step)

    def dense_gradient(self, p: Tensor) -> Tensor:
        """Return the gradient of this step before pruning, shaped like `p`.

        It is summed over micro-batches, and there on update steps, inside `update_mask`, if
        `needs_dense_gradient`.
        """
        return self._updated("dense_gradient", p).gradient()

    def gradient_score(self, p: Tensor) -> Tensor | RowBlocks:
        """Return `dense_gradient` as a score; that of a compressed weight is not multiplied out."""
        return self._updated("gradient_score", p).dense_gradient().score()

    def generator(self, p: Tensor) -> torch.Generator:
        """Return a CPU generator for this weight at this step: the same on every rank."""
        return self._updated("generator", p).generator()

    def random_score(self, p: Tensor) -> Tensor:
        """Return uniform numbers in [0, 1), float32, shaped like `p`, from `generator(p)`.

        Of a sharded weight each rank gets its own part of the same numbers.
        """
        return self._updated("random_score", p).random()

    def _updated(self, what: str, p: Tensor) -> WeightUpdate:
        if self._updating is None or self._updating.weight is not p:
            problem = "call it inside update_mask, with the weight that update_mask was given"
            raise AlgorithmError(f"{type(self).__name__}.{what}", problem)
        return self._updating

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Count a step, prune what it wrote and, if masks are due, change them.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
        """
        with self.session.stepping(optimizer, [self]) as step:
            if self.session.is_due(self, step.number):
                change_masks(self.session, self, step)

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the update steps among `0..until`, ascending."""
        return self.update_schedule.steps(until)

    @property
    def planned_steps(self) -> int | None:
        """Length of a run that the update schedule is made for; None if nothing limits it."""
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
