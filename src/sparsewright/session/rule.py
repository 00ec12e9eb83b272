"""The interface that a session uses for its algorithms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor, nn

from sparsewright.core.hooks import Hooks
from sparsewright.core.structure import Structure
from sparsewright.init import InitMethod
from sparsewright.schedules import UpdateSchedule
from sparsewright.schedules.schedule_set import ScheduleSet

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sparsewright.session.parameter import SparseParameter
    from sparsewright.session.session import Session
    from sparsewright.session.weight_update import WeightUpdate


class Rule(Protocol):
    """The interface of an algorithm inside a session.

    Attributes:
        _autoupdate: whether `update` is called after each optimizer step.
        needs_dense_gradient: whether mask updates need the dense gradient.
        init_method: computes the first mask.
        storages: names of the storages that the algorithm supports.
        selections: what each mask update selects from; empty if masks never change.
        schedules: the schedules.
        seed: the seed.
        session: the session that the algorithm belongs to.
        shadows: full name -> dense entries of a shadowed weight.
        storage: name of the storage for its weights.
    """

    _autoupdate: bool
    needs_dense_gradient: ClassVar[bool]
    init_method: InitMethod
    storages: ClassVar[tuple[str, ...]]
    selections: ClassVar[tuple[tuple[str, str], ...]]
    schedules: ScheduleSet
    seed: int
    session: Session
    shadows: dict[str, Tensor]
    _hooks: Hooks

    @property
    def storage(self) -> str:
        """Return the name of the storage for its weights."""

    @property
    def structure(self) -> Structure:
        """Return the structure of its masks."""

    def structure_of(self, name: str) -> Structure:
        """Return the structure of one weight's masks, by full name."""

    @property
    def skips_misfits(self) -> bool:
        """Return whether the default filter skips weights that the structure does not fit."""

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise an error if a parameter cannot be sparsified."""

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter."""

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Prune weights and update masks after an optimizer step."""

    def schedule_of(self, parameter: SparseParameter) -> str:
        """Return the name of the schedule for a parameter's level."""

    def level_bounds(self, parameter: SparseParameter) -> Sequence[float]:
        """Return a parameter's smallest, largest and last level."""

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the steps in `0..until` at which masks are created or changed."""

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Record capacity hints on a parameter."""

    def set_levels(self, step: int) -> None:
        """Divide the level of a step among the parameters, for an update of their masks."""

    def level_at(self, parameter: SparseParameter, step: int) -> Tensor:
        """Return a parameter's level at a step."""

    def _rename(self, new: Mapping[str, str]) -> None:
        """Rename parameters: old full name -> new full name."""

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        """Return the mask before the first step."""

    def _grad_hook(self, p: Tensor, grad: Tensor) -> Tensor:
        """Return the pruned form of a gradient that was just accumulated."""

    def _is_due(self, step: int) -> bool:
        """Return whether masks are due to change at a step."""


class Owner(Protocol):
    """The interface of the algorithm or Group that owns a session."""

    _hooks: Hooks


class DynamicRule(Rule, Protocol):
    """The interface of an algorithm whose masks change.

    Attributes:
        needs_gradient: whether a weight without a gradient keeps its mask.
        update_schedule: the steps at which masks change.
    """

    needs_gradient: ClassVar[bool]
    update_schedule: UpdateSchedule

    def update_masks(self, updates: Sequence[WeightUpdate]) -> Iterable[Tensor]:
        """Return or yield one new mask per weight, in order."""
