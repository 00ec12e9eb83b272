"""The schedules of one algorithm, by name: kept in range, moved on, saved and restored together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.errors import LevelError, StateError, show
from sparsewright.core.make_schedule import make_hyperparam_schedule
from sparsewright.core.schedules import Constant, Cycling, HyperParameterSchedule
from sparsewright.core.state_dicts import load_all

# The extremes of a formula are looked for so many steps ahead at most.
_HORIZON = 100_000


class ScheduleSet:
    """Named schedules of fractions, 0..1."""

    def __init__(self) -> None:
        self._schedules: dict[str, HyperParameterSchedule] = {}
        self._given: dict[str, Any] = {}
        self._bounds: dict[tuple[str, int, int | None], list[float]] = {}

    def add(self, name: str, value: Any) -> HyperParameterSchedule:
        """Add a number, list, dict, function or schedule under a name.

        Raises:
            LevelError: a number outside 0..1. What a formula gives is clamped instead.
        """
        schedule = make_hyperparam_schedule(value, name)
        if schedule is value:  # the user's: what moves must not move twice, here and elsewhere
            schedule = copy.copy(schedule)
        numbers: list[float] = []
        if isinstance(schedule, Constant):
            numbers = [schedule.value]
        elif isinstance(schedule, Cycling):
            numbers = schedule.values
        for number in numbers:
            if not 0 <= number <= 1:
                raise LevelError(name, number)
        self._schedules[name], self._given[name] = schedule, value
        self._bounds.clear()
        return schedule

    def add_shared(self, name: str, value: Any) -> str:
        """Add as `add` does, unless the same schedule or an equal constant is there already.

        Returns:
            The name under which the schedule is.
        """
        schedule = make_hyperparam_schedule(value, name)
        for other, known in self._schedules.items():
            is_same = schedule is self._given[other]
            if is_same or (isinstance(schedule, Constant) and schedule == known):
                return other
        self.add(name, schedule)
        return name

    def __getitem__(self, name: str) -> HyperParameterSchedule:
        return self._schedules[name]

    def items(self) -> list[tuple[str, HyperParameterSchedule]]:
        """Name and schedule of each."""
        return list(self._schedules.items())

    def value(self, name: str, step: int) -> Tensor:
        """The value at a step, clamped to 0..1; a 0-d tensor.

        float64 if it is one of the numbers that were given: float32 would make 1/3 another level.
        """
        schedule = self._schedules[name]
        if isinstance(schedule, Constant):
            return torch.tensor(schedule.value, dtype=torch.float64, device="cpu")
        if isinstance(schedule, Cycling):
            value = schedule.values[schedule.index]
            return torch.tensor(value, dtype=torch.float64, device="cpu")
        return schedule(step).clamp(0, 1)

    def min_max_end(self, name: str, begin: int, end: int | None) -> list[float]:
        """Smallest, largest and last value over the steps, each clamped to 0..1.

        Empty if there is no last step and no formula (a function of the step) to look ahead with.
        """
        key = name, begin, end
        if key not in self._bounds:  # many parameters share a level, which may be slow to follow
            self._bounds[key] = self._find_bounds(*key)
        return self._bounds[key]

    def _find_bounds(self, name: str, begin: int, end: int | None) -> list[float]:
        schedule = self._schedules[name]
        if end is None:
            if type(schedule).get_min_max_end is HyperParameterSchedule.get_min_max_end:
                return []
            end = begin + _HORIZON
        low, high, last = schedule.get_min_max_end(begin, min(end, begin + _HORIZON))
        if end > begin + _HORIZON:
            *_, last = schedule.get_min_max_end(end, end)
        return [min(max(v, 0), 1) for v in (min(low, last), max(high, last), last)]

    def update(self, is_update_step: bool) -> None:
        """Tell every schedule that a step is over, and whether masks were due."""
        for schedule in self._schedules.values():
            schedule.update(is_update_step)

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace every state tensor by `fn` of it."""
        for schedule in self._schedules.values():
            schedule.visit_state(fn)

    def state_dict(self) -> dict[str, Any]:
        """Name -> state of the schedule."""
        return {name: schedule.state_dict() for name, schedule in self._schedules.items()}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take back what `state_dict` gave.

        Raises:
            StateError: other schedules, or a state that does not fit; nothing is changed then.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(self._schedules):
            raise StateError("the schedules", f"expected a dict of {', '.join(self._schedules)}")
        for name, state in state_dict.items():
            if not isinstance(state, Mapping):
                raise StateError(f"the schedule {name}", f"expected a dict, got {show(state)}")
        load_all([self._schedules[name] for name in state_dict], list(state_dict.values()))
