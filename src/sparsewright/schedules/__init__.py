"""Schedules: values that depend on the step, and the steps at which masks change.

To add a schedule, write its class in a new file and add it to `ALL` or `UPDATES`.
"""

from sparsewright.schedules.schedule import HyperParameterSchedule, ScheduleLike
from sparsewright.schedules.updates import (
    FreqSchedule,
    ListSchedule,
    UpdateLike,
    UpdateSchedule,
)
from sparsewright.schedules.values import (
    Constant,
    Cosine,
    Cubic,
    Cycling,
    Exp,
    Lambda,
    Linear,
    Power,
)

ALL: tuple[type[HyperParameterSchedule], ...] = (
    Constant,
    Linear,
    Exp,
    Power,
    Cosine,
    Cubic,
    Cycling,
    Lambda,
)
"""The classes that a dict `{"type": name, ...}` can build."""

UPDATES: tuple[type[UpdateSchedule], ...] = (FreqSchedule, ListSchedule)
"""The update schedules that a dict can build; all its keys must be arguments of one class."""

__all__ = [
    "ALL",
    "UPDATES",
    "Constant",
    "Cosine",
    "Cubic",
    "Cycling",
    "Exp",
    "FreqSchedule",
    "HyperParameterSchedule",
    "Lambda",
    "Linear",
    "ListSchedule",
    "Power",
    "ScheduleLike",
    "UpdateLike",
    "UpdateSchedule",
]
