"""Conversion of configs in the older dialect to the current keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sparsewright.core.filters import ParamFilter
from sparsewright.core.step import Step
from sparsewright.errors import ExclusiveOptionsError, OptionError, OptionTypeError

_MARKS = ("param_name_patterns", "sparsity_schedule")


def is_old_dialect(entry: Mapping[str, Any]) -> bool:
    """Return whether a config entry uses the older dialect."""
    return any(mark in entry for mark in _MARKS)


def convert_old_dialect(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a config entry from the older dialect to the current keys.

    - `type` becomes `algorithm`.
    - `param_name_patterns` becomes a filter that searches the full name for regular expressions.
    - `sparsity_schedule` (`[[step, level], ...]`) becomes a level that changes at those steps.
    - `schedule` becomes `update`; in the older dialect it defines when masks change. Without it,
      masks change at the steps of `sparsity_schedule`.

    Raises:
        OptionError: a value is out of range or a pattern does not compile.
        OptionTypeError: a value has the wrong type.
        ExclusiveOptionsError: the entry has both the older and the current key.
    """
    options = dict(entry)
    for old, new in (("type", "algorithm"), ("schedule", "update")):
        if old in options:
            if new in options:
                raise ExclusiveOptionsError([new, old])
            options[new] = options.pop(old)
    if "param_name_patterns" in options:
        options["param_filter"] = _regex_filter(options.pop("param_name_patterns"))
    if "sparsity_schedule" in options:
        if "sparsity" in options:
            raise ExclusiveOptionsError(["sparsity", "sparsity_schedule"])
        points = _points(options.pop("sparsity_schedule"))
        if len(points) == 1:
            options["sparsity"] = points[0][1]
        else:
            options["sparsity"] = _Steps(points)
            options.setdefault("update", {"steps": [step for step, _ in points]})
    return options


class _Steps:
    """Schedule with the level of the last point reached, or of the first point before that."""

    def __init__(self, points: list[tuple[int, float]]) -> None:
        self.points = points

    def __call__(self, step: Step) -> float:
        reached = [level for at, level in self.points if at <= int(step)]
        return reached[-1] if reached else self.points[0][1]

    def __repr__(self) -> str:
        return f"steps({self.points})"


def _points(schedule: Any) -> list[tuple[int, float]]:
    what, form = "sparsity_schedule", "a list of pairs [step, level]"
    if not isinstance(schedule, list | tuple) or not schedule:
        raise OptionTypeError(what, schedule, form)
    order = "[step, level] with ascending steps >= 0 and levels between 0 and 1"
    points: list[tuple[int, float]] = []
    for point in schedule:
        if (
            not isinstance(point, list | tuple)
            or len(point) != 2
            or type(point[0]) is not int
            or type(point[1]) not in (int, float)
        ):
            raise OptionTypeError(f"an entry of {what}", point, "a pair [step, level]")
        if point[0] < 0 or not 0 <= point[1] <= 1 or (points and point[0] <= points[-1][0]):
            raise OptionError(f"an entry of {what}", point, order)
        points.append((point[0], float(point[1])))
    return points


def _regex_filter(patterns: Any) -> ParamFilter:
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise OptionTypeError(
            "param_name_patterns", patterns, "a regular expression or a list of them"
        )
    compiled = [_compile(pattern) for pattern in patterns]

    def picks(name: str, param: Tensor) -> bool:
        return any(regex.search(name) for regex in compiled)

    return picks


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise OptionError(
            "param_name_patterns", pattern, "a regular expression", advice=f"Python says: {error}."
        ) from None
