"""The base class of hyperparameter schedules, which are values that depend on the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsewright.core.counts import as_number
from sparsewright.core.plots import plot_values
from sparsewright.core.step import Step
from sparsewright.errors import StateError
from sparsewright.wording import show


class HyperParameterSchedule(ABC):
    """Schedule a value that depends on the step. A subclass must implement only `compute`.

    Attributes:
        name: value of `type` in a config, in lower case; only classes in `schedules.ALL` need a
            name.
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
        """Return `compute(step)`, without caching."""
        return self.compute(step)

    def exact(self, step: Step) -> Tensor:
        """Return the value at a step in the precision that the user gave.

        Returns:
            0-d tensor on step's device: float64 if the user gave this exact number (in float32,
            1/3 would be a different level), else `compute(step)`.
        """
        return self.compute(step)

    def levels(self) -> Sequence[float] | None:
        """Return all values of the schedule, or None if it has no list of values."""
        return None

    @property
    def last_step(self) -> int | None:
        """Return the step after which no new value follows, >= 0, or None.

        After this step the value stays constant (`Cubic`) or repeats earlier values (`Cosine`).
        None means that there is no such step or that it is unknown.
        """
        return None

    def update(self, is_update_step: Tensor | bool) -> None:  # noqa: B027 - a hook: stateless schedules inherit it
        """Advance the schedule's state. The algorithm calls this once after each step.

        Args:
            is_update_step: whether masks were due for an update at the step.
        """

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:  # noqa: B027 - a hook, as `update`
        """Replace every state tensor `t` by `fn(t)`."""

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the smallest, largest and last value over the steps `begin..end`, inclusive."""
        values = [as_number(torch.as_tensor(self.compute(s))) for s in range(begin, end + 1)]
        return min(values), max(values), values[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's state, without the step, as plain numbers."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state that `state_dict` returned.

        Raises:
            StateError: the state belongs to another schedule.
        """
        if state_dict:
            raise StateError(repr(self), f"it has no state to load; got {show(state_dict)}")

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Plot the values with matplotlib (extra `plot`).

        The x axis counts steps. For a schedule with state, such as `Cycling`, it counts mask
        updates.

        Args:
            steps: last step to plot, >= 1.
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
"""Anything that `make_hyperparam_schedule` accepts: a schedule, a number, a 0-d tensor, a list
(`Cycling`), a dict `{"type": name, ...}` or a function of the step."""


def constant_value(schedule: HyperParameterSchedule) -> float | None:
    """Return the value of a constant schedule, or None if the value can change."""
    levels = schedule.levels() or ()
    return levels[0] if len(levels) == 1 and schedule.last_step == 0 else None
