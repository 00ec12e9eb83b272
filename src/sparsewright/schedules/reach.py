"""Whether a level gets to its last value by the update steps that there are."""

from __future__ import annotations

from sparsewright.schedules.schedule import HyperParameterSchedule
from sparsewright.schedules.updates import UpdateSchedule


def why_not_reached(level: HyperParameterSchedule, update: UpdateSchedule) -> str:
    """Return why masks never have the last level of a schedule, as a clause; "" if they do.

    A schedule without a last value, such as a function of the step, is always reached; so is one
    whose updates never stop.

    >>> from sparsewright.schedules import Cubic, FreqSchedule
    >>> cubic = Cubic(init=0, final=0.9, begin=0, end=20)
    >>> why_not_reached(cubic, FreqSchedule(freq=5, stop=20))
    'ends at 0.8859 instead of 0.9: its last update is at step 15, the last level comes at step 20'
    >>> why_not_reached(cubic, FreqSchedule(freq=5, stop=21))
    ''
    """
    last = update.last_step
    if last is None:
        return ""
    end, values = level.last_step, level.levels() or ()
    if end is not None and last < end:
        reached, final = (float(level.exact(step)) for step in (last, end))
        if f"{reached:.4g}" != f"{final:.4g}":
            return (
                f"ends at {reached:.4g} instead of {final:.4g}: its last update is at step {last}, "
                f"the last level comes at step {end}"
            )
    count = len(update.steps(last)) if len(values) > 1 else len(values)
    if count < len(values):
        plural = "s" if count > 1 else ""
        return f"has {len(values)} values for {count} update{plural}, and never gets to the last"
    return ""
