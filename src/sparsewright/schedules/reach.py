"""A check that mask updates continue until a schedule has reached its last level."""

from __future__ import annotations

from sparsewright.schedules.schedule import HyperParameterSchedule
from sparsewright.schedules.updates import UpdateSchedule


def why_not_reached(level: HyperParameterSchedule, update: UpdateSchedule) -> str:
    """Return a clause that explains why masks never reach a schedule's last level, or "".

    The result is "" for a schedule without a last level, such as a function of the step, and for
    updates that never stop.

    >>> from sparsewright.schedules import Cubic, FreqSchedule
    >>> cubic = Cubic(init=0, final=0.9, begin=0, end=20)
    >>> why_not_reached(cubic, FreqSchedule(freq=5, stop=20))
    'ends at 0.8859 instead of 0.9: the last mask update is at step 15; update at step 20 or later'
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
                f"ends at {reached:.4g} instead of {final:.4g}: the last mask update is at step "
                f"{last}; update at step {end} or later"
            )
    count = len(update.steps(last)) if len(values) > 1 else len(values)
    if count < len(values):
        plural = "" if count == 1 else "s"
        return (
            f"has {len(values)} values but only {count} mask update{plural}, so it never reaches "
            "the last value"
        )
    return ""
