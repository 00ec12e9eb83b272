"""What an algorithm will do over the steps of a run: its updates, levels and drop fractions."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.counts import as_decimal

POINTS = 51  # of a curve: with its numbers it fits a terminal of 80 columns
_STEPS = 1000  # length of a run if no schedule has an end


@dataclass(frozen=True)
class Forecast:
    """An algorithm over `steps` steps.

    Attributes:
        steps: length of the run.
        updates: the steps at which masks change, after step 0.
        starts_sparse: whether weights are sparse before the first step.
        level: (step, level in force there), at `POINTS` steps or fewer; the last is the end.
        drop_fraction: (update step, drop fraction there); empty if the algorithm has none.
    """

    steps: int
    updates: Sequence[int]
    starts_sparse: bool
    level: list[tuple[int, float]]
    drop_fraction: list[tuple[int, float]]

    @property
    def last_updates(self) -> list[int | None]:
        """For each point of `level` the last update since the point before it, if any."""
        found: list[int | None] = []
        before = 0
        for step, _ in self.level:
            index = bisect_right(self.updates, step) - 1
            is_new = index >= 0 and self.updates[index] > before
            found.append(self.updates[index] if is_new else None)
            before = step
        return found


def forecast(algorithm: SparsityAlgorithm, steps: int) -> Forecast:
    """Follow an algorithm's schedules over a run; the algorithm stays as it is."""
    due = algorithm.update_steps(steps)
    points = sorted({round(steps * i / (POINTS - 1)) for i in range(POINTS)})
    updates = due[1:] if due and due[0] == 0 else due
    made = [bisect_right(due, step) - 1 for step in points]  # index of the update in force
    level = _values(algorithm, "sparsity", due, made)
    result = Forecast(
        steps,
        updates,
        starts_sparse=bool(due) and due[0] == 0,
        level=[(step, level.get(index, 0.0)) for step, index in zip(points, made, strict=True)],
        drop_fraction=[],
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
    """The value of a schedule at some of the update steps, by their index."""
    schedules, wanted = copy.deepcopy(algorithm.schedules), {i for i in indices if i >= 0}
    values = {}
    # Schedules that advance have to pass all steps; there may be more than can be counted.
    for index in range(len(due)) if schedules.has_state else sorted(wanted):
        if index in wanted:
            # The shortest decimal: float32's 0.9 stays 0.9 and does not become 0.8999999762.
            values[index] = float(as_decimal(schedules.value(name, due[index])))
        schedules.update(True)
    return values


def guess_steps(algorithms: Sequence[SparsityAlgorithm]) -> int:
    """Return the length of a run in which every schedule that has an end reaches it."""
    ends: list[int | None] = [
        schedule.last_step for a in algorithms for _, schedule in a.schedules.items()
    ]
    ends += [algorithm.planned_steps for algorithm in algorithms]
    return max((end for end in ends if end is not None), default=0) or _STEPS
