"""What a session asks of each algorithm in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor, nn

from sparsewright.core.hooks import Hooks
from sparsewright.core.structure import Structure
from sparsewright.schedules.schedule_set import ScheduleSet

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sparsewright.session.parameter import SparseParameter
    from sparsewright.session.weight_update import WeightUpdate


class Rule(Protocol):
    """An algorithm, as far as a session knows it.

    Attributes:
        autoupdate: whether it is updated after each optimizer step.
        needs_dense_gradient: whether its updates need the dense gradient.
        schedules: its schedules.
        seed: its seed.
        shadows: dense entries of shadowed weights, by full name.
        storage: name of the storage of its weights.
    """

    autoupdate: bool
    needs_dense_gradient: ClassVar[bool]
    schedules: ScheduleSet
    seed: int
    shadows: dict[str, Tensor]
    _hooks: Hooks

    @property
    def storage(self) -> str: ...

    def check_parameter(self, name: str, param: Tensor) -> None: ...

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None: ...

    def update(self, optimizer: Optimizer | None = None) -> None: ...

    def schedule_of(self, parameter: SparseParameter) -> str: ...

    def level_bounds(self, parameter: SparseParameter) -> Sequence[float]: ...

    def csx_annotate_sparsity(self, param: SparseParameter) -> None: ...

    def level_at(self, parameter: SparseParameter, step: int) -> Tensor: ...

    def _make_mask(self, parameter: SparseParameter) -> Tensor: ...

    def _grad_hook(self, p: Tensor, grad: Tensor) -> Tensor: ...

    def _is_due(self, step: int) -> bool: ...


class DynamicRule(Rule, Protocol):
    """An algorithm whose masks change."""

    @property
    def structure(self) -> Structure: ...

    def update_masks(self, updates: Sequence[WeightUpdate]) -> Iterable[Tensor]: ...
