"""Schedules: values that depend on the step, and the steps at which masks change.

A new schedule is a class in a file of its own and its entry in `ALL` or `UPDATES`.
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
"""The classes that a dict `{"type": name, ...}` can build, by their `name`."""

UPDATES: tuple[type[UpdateSchedule], ...] = (FreqSchedule, ListSchedule)
"""The update schedules that a dict can build; its keys are the arguments of one class."""

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
