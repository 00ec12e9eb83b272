"""The base of hyperparameter schedules: a value that depends on the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from sparsewright.core.plots import plot_values
from sparsewright.core.step import Step
from sparsewright.errors import StateError
from sparsewright.wording import show


class HyperParameterSchedule(ABC):
    """A value that depends on the step. A subclass writes `compute`; the rest has defaults.

    Attributes:
        name: the `type` of the class in a config, in lower case; only classes in `schedules.ALL`
            need one.
    """

    name: ClassVar[str]

    @abstractmethod
    def compute(self, step: Step) -> Tensor:
        """Return the value at a step.

        Args:
            step: completed optimizer steps; an int or a 0-d int64 tensor.

        Returns:
            0-d float32 tensor on step's device.
        """

    def __call__(self, step: Step) -> Tensor:
        """Return `compute(step)`; nothing is cached."""
        return self.compute(step)

    def exact(self, step: Step) -> Tensor:
        """Return the value at a step in the precision in which it was given.

        Returns:
            0-d tensor on step's device: float64 if the user gave this very number (float32 would
            make 1/3 another level), else `compute(step)`.
        """
        return self.compute(step)

    def levels(self) -> Sequence[float] | None:
        """Return every value that the schedule can take, or None if they are not listed."""
        return None

    @property
    def last_step(self) -> int | None:
        """The step after which no new value comes, >= 0; None if there is none or it is unknown.

        The value then stays the same (`Cubic`) or repeats earlier ones (`Cosine`).
        """
        return None

    def update(self, is_update_step: Tensor | bool) -> None:  # noqa: B027 - few have state
        """Advance the state of the schedule; called once after each step.

        Args:
            is_update_step: whether masks were due at the step.
        """

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:  # noqa: B027 - few have one
        """Replace every state tensor by `fn` of it."""

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the smallest, largest and last value over the steps `begin..end`, inclusive."""
        values = [float(self.compute(step)) for step in range(begin, end + 1)]
        return min(values), max(values), values[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule, besides the step, as plain numbers."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state that `state_dict` returned.

        Raises:
            StateError: the state belongs to another schedule.
        """
        if state_dict:
            raise StateError(repr(self), f"it has no state, but was given {show(state_dict)}")

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Draw the values with matplotlib (extra `plot`); a cycle from update to update.

        Args:
            steps: the last step drawn, >= 1.
            ax: matplotlib axes to draw on; None: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return plot_values(self, steps, ax)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = object.__hash__


ScheduleLike = (
    HyperParameterSchedule
    | float
    | Tensor
    | Sequence[float]
    | Mapping[str, object]
    | Callable[[Step], float | Tensor]
)
"""Anything that `make_hyperparam_schedule` takes: a schedule, a number, a 0-d tensor, a list
(`Cycling`), a dict `{"type": name, ...}` or a function of the step."""


def constant_value(schedule: HyperParameterSchedule) -> float | None:
    """Return the one value that a schedule has at every step, or None if it can move."""
    levels = schedule.levels() or ()
    return levels[0] if len(levels) == 1 and schedule.last_step == 0 else None
