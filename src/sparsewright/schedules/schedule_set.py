"""The named schedules of one algorithm, which are clamped, advanced, saved and loaded together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sparsewright.core.state_dicts import load_all
from sparsewright.errors import LevelError, StateError
from sparsewright.schedules.parse import make_hyperparam_schedule
from sparsewright.schedules.schedule import HyperParameterSchedule, ScheduleLike, constant_value
from sparsewright.wording import show

# A formula is evaluated at most this many steps ahead to find its smallest and largest value.
_HORIZON = 100_000


class ScheduleSet:
    """Hold named schedules of fractions, 0..1."""

    def __init__(self) -> None:
        self._schedules: dict[str, HyperParameterSchedule] = {}
        self._given: dict[str, ScheduleLike] = {}
        self._names: dict[tuple[str, float], str] = {}
        self._stateful: dict[str, HyperParameterSchedule] = {}
        self._bounds: dict[tuple[str, int, int | None], list[float]] = {}

    def add(self, name: str, value: ScheduleLike) -> HyperParameterSchedule:
        """Add a number, list, dict, function or schedule under a name.

        Returns:
            The schedule. If `value` is a schedule, the result is a copy, so two sets never
            advance the same state.

        Raises:
            LevelError: a given number is outside 0..1. Values of a formula are clamped instead.
        """
        schedule = make_hyperparam_schedule(value, name)
        for level in schedule.levels() or ():
            if not 0 <= level <= 1:
                raise LevelError(name, level)
        self._names[_key(schedule)] = name
        if schedule is value:
            schedule = copy.copy(schedule)
        self._schedules[name], self._given[name] = schedule, value
        self._stateful.pop(name, None)
        if type(schedule).update is not HyperParameterSchedule.update:
            self._stateful[name] = schedule
        self._bounds.clear()
        return schedule

    def add_shared(self, name: str, value: ScheduleLike) -> str:
        """Add a schedule, unless the set already has the same schedule or an equal constant.

        Returns:
            The name under which the set has the schedule.
        """
        schedule = make_hyperparam_schedule(value, name)
        other = self._names.get(_key(schedule))
        if other is not None and self._holds(other, schedule):
            return other
        self.add(name, schedule)
        return name

    def _holds(self, name: str, schedule: HyperParameterSchedule) -> bool:
        """Return whether the name holds this schedule; an equal key can come from a reused id."""
        if self._given[name] is schedule:
            return True
        constant = constant_value(schedule)
        return constant is not None and constant == constant_value(self._schedules[name])

    def __getitem__(self, name: str) -> HyperParameterSchedule:
        return self._schedules[name]

    def items(self) -> list[tuple[str, HyperParameterSchedule]]:
        """Return all pairs of name and schedule."""
        return list(self._schedules.items())

    def value(self, name: str, step: int) -> Tensor:
        """Return the value at a step, clamped to 0..1.

        Returns:
            0-d tensor; float64 if the user gave this exact number, else float32.
        """
        return self._schedules[name].exact(step).clamp(0, 1)

    def min_max_end(self, name: str, begin: int, end: int | None) -> list[float]:
        """Return the smallest, largest and last value over the steps, each clamped to 0..1.

        The list is empty if `end` is None and the schedule has no formula to evaluate ahead, for
        example if it is a function of the step.
        """
        key = name, begin, end
        if key not in self._bounds:  # many parameters share a level, which can be slow to evaluate
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

    @property
    def has_state(self) -> bool:
        """Return whether any schedule has a state, which `update` must advance."""
        return bool(self._stateful)

    def update(self, is_update_step: bool) -> None:
        """Advance the schedules after a step; `is_update_step` is whether masks were due."""
        for schedule in self._stateful.values():
            schedule.update(is_update_step)

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace every state tensor `t` by `fn(t)`."""
        for schedule in self._schedules.values():
            schedule.visit_state(fn)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each schedule, by name."""
        return {name: schedule.state_dict() for name, schedule in self._schedules.items()}

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state that `state_dict` returned.

        Raises:
            StateError: the schedules have other names, or a state is invalid; no schedule changes.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(self._schedules):
            names = ", ".join(self._schedules)
            raise StateError("the schedules", f"expected a dict with the keys {names}")
        for name, state in state_dict.items():
            if not isinstance(state, Mapping):
                raise StateError(f"the schedule {name}", f"expected a dict, got {show(state)}")
        load_all([self._schedules[name] for name in state_dict], list(state_dict.values()))


def _key(schedule: HyperParameterSchedule) -> tuple[str, float]:
    """Return a key that is equal for schedules that parameters can share."""
    constant = constant_value(schedule)
    return ("object", id(schedule)) if constant is None else ("constant", constant)
