"""Find settings that are valid but probably not what the user wants."""

from __future__ import annotations

from collections.abc import Iterator

from sparsewright.base import SparsityAlgorithm
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.plan.contents import Plan
from sparsewright.plan.forecast import Forecast
from sparsewright.schedules import FreqSchedule, ListSchedule, UpdateSchedule

_LATE = 0.95  # fraction of a run
_MUCH = 0.01  # fraction of the connections
_MOST_NAMES = 3


def find_pitfalls(algorithm: SparsityAlgorithm, forecast: Forecast) -> Iterator[str]:
    """Yield one sentence for each probable mistake in an algorithm's schedules over a run."""
    if not isinstance(algorithm, DynamicSparsityAlgorithm):
        return
    yield from _of_updates(algorithm.update_schedule, forecast)
    if "sparsity" in dict(algorithm.schedules.items()) and algorithm.distribution.uses_level:
        yield from _of_level(algorithm, forecast)
    if forecast.drop_fraction:
        yield from _of_drops(forecast)


def _of_updates(update: UpdateSchedule, forecast: Forecast) -> Iterator[str]:
    first, last, steps = update.first_step, update.last_step, forecast.steps
    if not forecast.updates and last != 0:  # an update at step 0 only can be intended
        when = "no update step is known"
        due = first
        if first == 0 and isinstance(update, FreqSchedule | ListSchedule):
            due = update.steps(2**53)[1]  # step 0 makes the mask; it does not change one
        if due:
            when = f"the first update is due at step {due:,}"
        yield f"masks never change in the {steps:,} steps of the run: {when}"
    elif last is not None and last > steps:
        yield f"updates are scheduled until step {last:,}, but the run ends at step {steps:,}"


def _of_drops(forecast: Forecast) -> Iterator[str]:
    (step, drop), steps = forecast.drop_fraction[-1], forecast.steps
    if not any(value for _, value in forecast.drop_fraction):
        yield "drop_fraction is 0 at every update: no connection is replaced"
    elif drop > _MUCH and step > _LATE * steps:
        yield (
            f"{drop:.0%} of the connections are replaced at step {step:,} of {steps:,}, too late "
            "for the new connections to train; stop updates earlier"
        )


def _of_level(algorithm: DynamicSparsityAlgorithm, forecast: Forecast) -> Iterator[str]:
    level, steps = algorithm.schedules["sparsity"], forecast.steps
    end, values = level.last_step, level.levels() or ()
    count = len(algorithm.update_steps(steps)) if len(values) > 1 else len(values)
    if count < len(values):
        plural = "" if count == 1 else "s"
        yield (
            f"the level has {len(values)} values but the run has only {count} update{plural}, so "
            "the last value is never reached"
        )
    elif end:
        reached, final = forecast.level[-1][1], float(algorithm.schedules.value("sparsity", end))
        if f"{reached:.4g}" != f"{final:.4g}":
            last = forecast.updates[-1] if forecast.updates else 0
            yield (
                f"the level ends at {reached:.4g}, not at {final:.4g}: the schedule has this value "
                f"at step {end:,}, but the last update is at step {last:,}"
            )


def find_notes(plan: Plan) -> list[str]:
    """Return one sentence for each probable mistake in a plan, with the place of the entry."""
    notes = [
        f"{e.place}: {text}"
        for e in plan.entries
        for text in find_pitfalls(e.algorithm, e.forecast)
    ]
    notes += [
        f"{e.place}: {e.algorithm.distribution!r} sets the level of each weight; the entry's "
        "sparsity is not used"
        for e in plan.entries
        if e.algorithm._is_level_given and not e.algorithm.distribution.uses_level
    ]
    return [*notes, *_of_empty(plan)]


def _of_empty(plan: Plan) -> Iterator[str]:
    for phase, when in enumerate(("start", "end")):
        names = [w.name for w in plan.sparse if w.kept[phase] == 0 and w.total]
        if names:
            more = len(names) - _MOST_NAMES
            shown = ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
            yield f"these weights have no live connections at the {when} of the run: {shown}"
            return
