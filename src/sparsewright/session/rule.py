"""What a session asks of each algorithm in it."""

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
    """An algorithm, as far as a session knows it.

    Attributes:
        _autoupdate: whether it is updated after each optimizer step.
        needs_dense_gradient: whether its updates need the dense gradient.
        init_method: makes the first mask.
        schedules: its schedules.
        selections: what its mask updates choose from; empty if masks never change.
        seed: its seed.
        session: what holds all that is on models and optimizers.
        shadows: dense entries of shadowed weights, by full name.
        storage: name of the storage of its weights.
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
        """The name of the storage of its weights."""

    @property
    def structure(self) -> Structure:
        """Which entries of a weight stand or fall together."""

    @property
    def skips_misfits(self) -> bool:
        """Whether weights that the structure does not fit stay dense under the default filter."""

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise if a parameter cannot be sparsified."""

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter."""

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Do what follows an optimizer step."""

    def schedule_of(self, parameter: SparseParameter) -> str:
        """Return the name of the schedule of a parameter's level."""

    def level_bounds(self, parameter: SparseParameter) -> Sequence[float]:
        """Return the smallest, largest and last level of a parameter."""

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the steps among `0..until` at which masks are made or changed."""

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Record capacity hints on a parameter."""

    def level_at(self, parameter: SparseParameter, step: int) -> Tensor:
        """Return the level of a parameter at a step."""

    def _rename(self, new: Mapping[str, str]) -> None:
        """Follow parameters to other full names."""

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        """Return the mask before the first step."""

    def _grad_hook(self, p: Tensor, grad: Tensor) -> Tensor:
        """Return a gradient pruned, that has just been accumulated."""

    def _is_due(self, step: int) -> bool:
        """Return whether masks change at a step."""


class Owner(Protocol):
    """An algorithm or a Group, as far as its session knows it."""

    _hooks: Hooks


class DynamicRule(Rule, Protocol):
    """An algorithm whose masks change.

    Attributes:
        needs_gradient: whether the mask of a weight without a gradient stays.
        update_schedule: when masks change.
    """

    needs_gradient: ClassVar[bool]
    update_schedule: UpdateSchedule

    def update_masks(self, updates: Sequence[WeightUpdate]) -> Iterable[Tensor]:
        """Return the new masks of weights that are due."""
