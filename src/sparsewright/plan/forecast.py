"""Forecast an algorithm's update steps, sparsity levels and drop fractions over a run."""

from __future__ import annotations

import copy
import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.counts import as_decimal

POINTS = 51  # points of a curve, which fits a terminal of 80 columns together with its labels
_STEPS = 1000  # default length of a run if no schedule has an end
_MOST_LEVELS = 10_000  # a run with more updates has levels only for some of them
_MOST_STRETCHES = 100  # for each, a distribution computes the levels of all weights


@dataclass(frozen=True)
class Stretch:
    """Consecutive training steps at one level.

    Attributes:
        steps: number of steps.
        updates: number of these steps that end with a mask update.
        level: the level of their masks, or the mean of several levels; None before the first mask.
    """

    steps: int
    updates: int
    level: float | None


@dataclass(frozen=True)
class Forecast:
    """The forecast for one algorithm over `steps` steps.

    Attributes:
        steps: length of the run.
        updates: the steps at which masks change, without step 0.
        starts_sparse: True if weights are sparse before the first step.
        level: pairs (step, level after the updates up to this step) at no more than `POINTS`
            steps; the last pair is for the end of the run.
        drop_fraction: pairs (update step, drop fraction); empty if the algorithm has no drop
            fraction.
        stretches: all steps of the run, at most about `_MOST_STRETCHES` parts.
    """

    steps: int
    updates: Sequence[int]
    starts_sparse: bool
    level: list[tuple[int, float]]
    drop_fraction: list[tuple[int, float]]
    stretches: Sequence[Stretch]

    @property
    def last_updates(self) -> list[int | None]:
        """Return for each point of `level` the last update since the previous point, or None."""
        found: list[int | None] = []
        before = 0
        for step, _ in self.level:
            index = bisect_right(self.updates, step) - 1
            is_new = index >= 0 and self.updates[index] > before
            found.append(self.updates[index] if is_new else None)
            before = step
        return found


def forecast(algorithm: SparsityAlgorithm, steps: int) -> Forecast:
    """Evaluate an algorithm's schedules over a run, without changing the algorithm."""
    due = algorithm.update_steps(steps)
    points = sorted({round(steps * i / (POINTS - 1)) for i in range(POINTS)})
    updates = due[1:] if due and due[0] == 0 else due
    made = [bisect_right(due, step) - 1 for step in points]  # index of the last update so far
    level = _values(algorithm, "sparsity", due, made)
    result = Forecast(
        steps,
        updates,
        starts_sparse=bool(due) and due[0] == 0,
        level=[(step, level.get(index, 0.0)) for step, index in zip(points, made, strict=True)],
        drop_fraction=[],
        stretches=_stretches(algorithm, due, steps),
    )
    if "drop_fraction" in dict(algorithm.schedules.items()):
        shown = [step for step in result.last_updates if step is not None]
        indices = [bisect_right(due, step) - 1 for step in shown]
        values = _values(algorithm, "drop_fraction", due, indices)
        pairs = zip(shown, indices, strict=True)
        result.drop_fraction.extend((step, values[index]) for step, index in pairs)
    return result


def _values(
    algorithm: SparsityAlgorithm, name: str, due: Sequence[int], indices: Sequence[int]
) -> dict[int, float]:
    """Return a schedule's values at the update steps with the given indices."""
    schedules, wanted = copy.deepcopy(algorithm.schedules), {i for i in indices if i >= 0}
    values = {}
    # Visit all updates only for schedules that keep state, because a run can have millions.
    for index in range(len(due)) if schedules.has_state else sorted(wanted):
        if index in wanted:
            # The shortest decimal keeps a float32 0.9 as 0.9 instead of 0.8999999762.
            values[index] = float(as_decimal(schedules.value(name, due[index])))
        schedules.update(True)
    return values


def _stretches(algorithm: SparsityAlgorithm, due: Sequence[int], steps: int) -> list[Stretch]:
    """Divide a run into stretches of one level each, and combine them if there are too many."""
    if not due:
        return [Stretch(steps, 0, None)]
    found = [Stretch(due[0], 1, None)] if due[0] else []
    chosen = range(0, len(due), -(-len(due) // _MOST_LEVELS))
    values = _values(algorithm, "sparsity", due, chosen)
    for index, after in itertools.zip_longest(chosen, chosen[1:]):
        end, last = (steps, len(due) - 1) if after is None else (due[after], after)
        found.append(Stretch(end - due[index], last - index, values[index]))
    by_level = itertools.groupby(found, key=lambda stretch: stretch.level)
    merged = [_joined(list(group)) for _, group in by_level]
    first = 1 if merged[0].level is None else 0
    size = -(-len(merged) // _MOST_STRETCHES)
    parts = [_joined(merged[i : i + size]) for i in range(first, len(merged), size)]
    return [stretch for stretch in merged[:first] + parts if stretch.steps]


def _joined(stretches: Sequence[Stretch]) -> Stretch:
    """Return one stretch for several, with their mean level."""
    steps, updates = sum(s.steps for s in stretches), sum(s.updates for s in stretches)
    first = stretches[0].level
    if first is None or all(s.level == first for s in stretches):
        return Stretch(steps, updates, first)
    total = sum(s.steps * s.level for s in stretches if s.level is not None)
    return Stretch(steps, updates, total / steps)


def guess_steps(algorithms: Sequence[SparsityAlgorithm]) -> int:
    """Return the length of the shortest run in which every schedule with an end reaches it."""
    ends: list[int | None] = [
        schedule.last_step for a in algorithms for _, schedule in a.schedules.items()
    ]
    ends += [algorithm.planned_steps for algorithm in algorithms]
    return max((end for end in ends if end is not None), default=0) or _STEPS
