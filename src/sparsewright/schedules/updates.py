"""Update schedules: the steps at which masks change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.plots import plot_updates
from sparsewright.core.step import MAX_STEP, Step, as_tensor, device_of
from sparsewright.errors import OptionError, OptionTypeError


class UpdateSchedule(ABC):
    """Define the steps at which masks change. A subclass must implement only `is_update_step`."""

    @abstractmethod
    def is_update_step(self, step: Step) -> Tensor:
        """Return whether masks change after `step` completed optimizer steps.

        Args:
            step: an int or a 0-d int64 tensor.

        Returns:
            0-d bool tensor on step's device.
        """

    def is_due(self, step: int) -> bool:
        """Return `is_update_step(step)` as a bool."""
        return bool(self.is_update_step(step))

    def __call__(self, step: Step) -> Tensor:
        """Return `is_update_step(step)`."""
        return self.is_update_step(step)

    @property
    def first_step(self) -> int | None:
        """Return the first update step, or None if there are no updates or it is unknown."""
        return None

    @property
    def last_step(self) -> int | None:
        """Return the last update step, or None.

        None means that updates never stop, that there are no updates, or that it is unknown.
        """
        return None

    @property
    def planned_steps(self) -> int | None:
        """Return the run length, in steps, that fits this schedule; None if it has no limit."""
        return self.last_step

    def steps(self, until: int) -> Sequence[int]:
        """Return the update steps in `0..until`, inclusive, in ascending order."""
        return [step for step in range(until + 1) if bool(self.is_update_step(step))]

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Plot the update steps with matplotlib (extra `plot`).

        Args:
            steps: last step to plot, >= 1.
            ax: matplotlib axes to draw on; None: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return plot_updates(self, steps, ax)


class FreqSchedule(UpdateSchedule):
    """Update masks every `freq` steps, from `start` on and before `stop`.

    Args:
        freq: steps between updates, >= 1.
        start: first update step, >= 0. With 0 or None, the model is sparse before its first
            training step.
        stop: step at which updates end, exclusive, > start; None: updates never stop.

    >>> schedule = FreqSchedule(freq=5, start=5, stop=17)
    >>> schedule.steps(100), schedule.steps(12), schedule.last_step
    (range(5, 17, 5), range(5, 13, 5), 15)
    """

    def __init__(self, freq: int = 1, start: int | None = 0, stop: int | None = None) -> None:
        start = 0 if start is None else start
        check_int("freq", freq, 1)
        check_int("start", start, 0)
        if stop is not None:
            check_int("stop", stop, 0)
            if stop <= start:
                raise OptionError("stop", stop, f"greater than start = {start}")
        self.freq, self.start, self.stop = freq, start, stop

    def is_update_step(self, step: Step) -> Tensor:
        """Return `start <= step < stop` and `(step - start) % freq == 0`."""
        step = as_tensor(step)
        due = (step >= self.start) & ((step - self.start) % self.freq == 0)
        return due if self.stop is None else due & (step < self.stop)

    def is_due(self, step: int) -> bool:
        """Return `is_update_step(step)` as a bool.

        It makes no tensor, because it is called before and after each step.
        """
        is_before = self.stop is None or step < self.stop
        return is_before and step >= self.start and (step - self.start) % self.freq == 0

    @property
    def first_step(self) -> int:
        """Return `start`."""
        return self.start

    @property
    def last_step(self) -> int | None:
        """Return the last update step before `stop`, or None if updates never stop."""
        return None if self.stop is None else self.steps(self.stop)[-1]

    @property
    def planned_steps(self) -> int | None:
        """Return `stop`."""
        return self.stop

    def steps(self, until: int) -> range:
        """Return the update steps in `0..until`, inclusive, as a range."""
        stop = until + 1 if self.stop is None else min(self.stop, until + 1)
        return range(self.start, max(self.start, stop), self.freq)

    def __repr__(self) -> str:
        return f"FreqSchedule(freq={self.freq}, start={self.start}, stop={self.stop})"


class ListSchedule(UpdateSchedule):
    """Update masks at the listed steps.

    Args:
        steps: integers >= 0, in any order.

    >>> schedule = ListSchedule([7, 3])
    >>> schedule.steps(10), schedule.steps(6), schedule.last_step
    ([3, 7], [3], 7)
    """

    def __init__(self, steps: list[int] | tuple[int, ...]) -> None:
        if not isinstance(steps, list | tuple):
            raise OptionTypeError("steps", steps, "a list of integers >= 0")
        for step in steps:
            check_int("an entry of steps", step, 0)
        self._steps = sorted(set(steps))

    def is_update_step(self, step: Step) -> Tensor:
        """Return whether `step` is in the list."""
        step = as_tensor(step)
        return torch.isin(step, torch.tensor(self._steps, dtype=torch.int64, device=step.device))

    @property
    def first_step(self) -> int | None:
        """Return the smallest step in the list, or None if the list is empty."""
        return self._steps[0] if self._steps else None

    @property
    def last_step(self) -> int | None:
        """Return the largest step in the list, or None if the list is empty."""
        return self._steps[-1] if self._steps else None

    def steps(self, until: int) -> list[int]:
        """Return the listed steps in `0..until`, inclusive, in ascending order."""
        return self._steps[: bisect_right(self._steps, until)]

    def __repr__(self) -> str:
        return f"ListSchedule({self._steps})"


class FunctionSchedule(UpdateSchedule):
    """Update masks at the steps for which a function returns True.

    Args:
        fn: a function `step -> bool`; it can also return a 0-d tensor.
    """

    def __init__(self, fn: Callable[[Step], bool | Tensor]) -> None:
        self.fn = fn

    def is_update_step(self, step: Step) -> Tensor:
        """Return `fn(step)` as a 0-d bool tensor."""
        value, device = self.fn(step), device_of(step)
        return torch.as_tensor(value, dtype=torch.bool, device=device).reshape(())

    def __repr__(self) -> str:
        return f"make_update_schedule({self.fn!r})"


UpdateLike = UpdateSchedule | int | Mapping[str, object] | Callable[[Step], bool | Tensor] | None
"""Anything that `make_update_schedule` accepts: None (every step), an int (`freq`), a dict with
the arguments of a schedule, a function `step -> bool` or a schedule."""


def check_int(what: str, value: object, least: int) -> None:
    """Raise an error unless an option is an integer from `least` to 2**53."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionTypeError(what, value, f"an integer >= {least}")
    if not least <= value <= MAX_STEP:
        end = " and <= 2**53" if value > MAX_STEP else ""
        raise OptionError(what, value, f"an integer >= {least}{end}")
