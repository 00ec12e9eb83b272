"""Update schedules: the steps at which masks change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.errors import OptionError, OptionTypeError
from sparsewright.core.plots import plot_updates
from sparsewright.core.schedules import Step, as_tensor

# The schedules compute in float64, which has every integer up to here.
MAX_STEP = 2**53


class UpdateSchedule(ABC):
    """Tells at which steps masks change. Subclasses write `is_update_step`."""

    @abstractmethod
    def is_update_step(self, step: Step) -> Tensor:
        """Whether masks change once `step` optimizer steps are completed.

        Args:
            step: an int or a 0-d int64 tensor.

        Returns:
            0-d bool tensor on step's device.
        """

    def __call__(self, step: Step) -> Tensor:
        """The same as `is_update_step(step)`."""
        return self.is_update_step(step)

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Draw the update steps with matplotlib (extra `plot`).

        Args:
            steps: the last step drawn, >= 1.
            ax: matplotlib axes to draw on; None: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return plot_updates(self, steps, ax)


class FreqSchedule(UpdateSchedule):
    """Every `freq` steps from `start` on, before `stop`.

    Args:
        freq: steps between updates, >= 1.
        start: first update step, >= 0. 0: masks are sparse before the first step.
        stop: no update at or after this step, > start; None: never stop.

    >>> [step for step in range(20) if FreqSchedule(freq=5, start=5, stop=15)(step)]
    [5, 10]
    """

    def __init__(self, freq: int = 1, start: int = 0, stop: int | None = None) -> None:
        _check_int("freq", freq, 1)
        _check_int("start", start, 0)
        if stop is not None:
            _check_int("stop", stop, 0)
            if stop <= start:
                raise OptionError("stop of update", stop, f"a step > start = {start}")
        self.freq, self.start, self.stop = freq, start, stop

    def is_update_step(self, step: Step) -> Tensor:
        """`start <= step < stop` and `(step - start) % freq == 0`."""
        step = as_tensor(step)
        due = (step >= self.start) & ((step - self.start) % self.freq == 0)
        return due if self.stop is None else due & (step < self.stop)

    def __repr__(self) -> str:
        return f"FreqSchedule(freq={self.freq}, start={self.start}, stop={self.stop})"


class ListSchedule(UpdateSchedule):
    """At the listed steps.

    Args:
        steps: integers >= 0, in any order.

    >>> [step for step in range(10) if ListSchedule([3, 7])(step)]
    [3, 7]
    """

    def __init__(self, steps: list[int] | tuple[int, ...]) -> None:
        if not isinstance(steps, list | tuple):
            raise OptionTypeError("steps", steps, "a list of integers >= 0")
        for step in steps:
            _check_int("an entry of steps", step, 0)
        self.steps = sorted(set(steps))

    def is_update_step(self, step: Step) -> Tensor:
        """Whether `step` is in the list."""
        step = as_tensor(step)
        return torch.isin(step, torch.tensor(self.steps, dtype=torch.int64, device=step.device))

    def __repr__(self) -> str:
        return f"ListSchedule({self.steps})"


class _CallableSchedule(UpdateSchedule):
    def __init__(self, fn: Callable[[Step], Any]) -> None:
        self.fn = fn

    def is_update_step(self, step: Step) -> Tensor:
        value, device = self.fn(step), as_tensor(step).device
        return torch.as_tensor(value, dtype=torch.bool, device=device).reshape(())

    def __repr__(self) -> str:
        return f"make_update_schedule({self.fn!r})"


def make_update_schedule(update: Any) -> UpdateSchedule:
    """Build an update schedule from anything that stands for one.

    Args:
        update: None (every step), an int (`freq`), a dict with `freq`/`start`/`stop` or `steps`,
            a function `step -> bool`, or an `UpdateSchedule` (returned as it is).

    Raises:
        OptionError: unknown key, or a number out of range.
        OptionTypeError: anything else.

    >>> make_update_schedule({"freq": 5, "stop": 15}), make_update_schedule({"steps": [3]})
    (FreqSchedule(freq=5, start=0, stop=15), ListSchedule([3]))
    """
    if isinstance(update, UpdateSchedule):
        return update
    if update is None:
        return FreqSchedule()
    if isinstance(update, Mapping):
        return _from_dict(update)
    if isinstance(update, int) and not isinstance(update, bool):
        return FreqSchedule(freq=update)
    if callable(update) and not isinstance(update, type):
        return _CallableSchedule(update)
    raise OptionTypeError(
        "update", update, "None, an integer, a dict (freq, start, stop or steps), a function"
    )


def _from_dict(options: Mapping[str, Any]) -> UpdateSchedule:
    keys = ["freq", "start", "stop", "steps"]
    for key in options:
        if key not in keys:
            raise OptionError("key of update", key, keys)
    if "steps" not in options:
        start = options.get("start")
        return FreqSchedule(**{**options, "start": 0 if start is None else start})
    if len(options) > 1:
        raise OptionError("update", dict(options), "either steps, or freq, start and stop")
    return ListSchedule(options["steps"])


def _check_int(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionTypeError(f"{what} of update", value, f"an integer >= {least}")
    if not least <= value <= MAX_STEP:
        raise OptionError(f"{what} of update", value, f"an integer >= {least}, at most 2**53")
