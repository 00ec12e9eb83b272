"""Construction of schedules from user options: a number, a list, a dict or a function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sparsewright import schedules
from sparsewright.core.counts import as_number
from sparsewright.core.options import check_complete, check_known, make_of_type
from sparsewright.errors import ExclusiveOptionsError, OptionTypeError
from sparsewright.schedules.formula import finite_number
from sparsewright.schedules.schedule import HyperParameterSchedule, ScheduleLike
from sparsewright.schedules.updates import (
    FreqSchedule,
    FunctionSchedule,
    UpdateLike,
    UpdateSchedule,
    check_int,
)
from sparsewright.schedules.values import Constant, Cycling, Lambda


def make_hyperparam_schedule(
    schedule: ScheduleLike, what: str = "schedule"
) -> HyperParameterSchedule:
    """Build a hyperparameter schedule from a user option.

    Args:
        schedule: a schedule (returned unchanged), a number or 0-d tensor (`Constant`), a list
            (`Cycling`), a function of the step (`Lambda`), or a dict `{"type": name, ...}` with
            the constructor arguments of the named class.
        what: name of the option in error messages.

    Raises:
        OptionError: the type or an argument is unknown, or an argument is missing.
        OptionTypeError: `schedule` has any other type.

    >>> make_hyperparam_schedule({"type": "linear", "init": 0.1, "slope": 0.02})
    Linear(init=0.1, slope=0.02)
    """
    if isinstance(schedule, HyperParameterSchedule):
        return schedule
    if isinstance(schedule, Real) and not isinstance(schedule, bool):
        return Constant(finite_number(what, schedule))
    if isinstance(schedule, Tensor) and _is_number(schedule):
        return Constant(as_number(schedule))
    if isinstance(schedule, Mapping):
        return make_of_type(what, schedule, schedules.ALL)
    if isinstance(schedule, list | tuple):
        return Cycling(
            [finite_number(f"{what}[{index}]", value) for index, value in enumerate(schedule)]
        )
    if callable(schedule) and not isinstance(schedule, type):
        return Lambda(schedule)
    raise OptionTypeError(
        what, schedule, "a number, a list of numbers, a dict with 'type' or a function of the step"
    )


def make_update_schedule(update: UpdateLike) -> UpdateSchedule:
    """Build an update schedule from a user option.

    Args:
        update: None (every step), an int (`freq`), a dict with `freq`/`start`/`stop` or `steps`,
            a function `step -> bool`, or an `UpdateSchedule` (returned unchanged).

    Raises:
        OptionError: a key is unknown, or a number is out of range.
        OptionTypeError: `update` or one of its values has any other type.

    >>> make_update_schedule({"freq": 5, "stop": 15}), make_update_schedule({"steps": [3]})
    (FreqSchedule(freq=5, start=0, stop=15), ListSchedule([3]))
    """
    if isinstance(update, UpdateSchedule):
        return update
    if update is None:
        return FreqSchedule()
    if isinstance(update, Mapping):
        return _update_from_dict(update)
    if isinstance(update, int) and not isinstance(update, bool):
        check_int("update", update, 1)
        return FreqSchedule(freq=update)
    if callable(update) and not isinstance(update, type):
        return FunctionSchedule(update)
    is_list = isinstance(update, list | tuple)
    raise OptionTypeError(
        "update",
        update,
        "None, an integer, a dict (freq, start, stop or steps) or a function",
        advice='For a list of steps, use {"steps": [...]}.' if is_list else "",
    )


def _is_number(tensor: Tensor) -> bool:
    """Return whether a tensor holds a single real number."""
    is_real = tensor.dtype != torch.bool and not tensor.is_complex()
    return tensor.ndim == 0 and is_real and not tensor.is_meta


def _update_from_dict(options: Mapping[str, Any]) -> UpdateSchedule:
    """Build a schedule of the first class that accepts all keys as arguments."""
    classes = {each: inspect.signature(each).parameters for each in schedules.UPDATES}
    check_known("update", options, dict.fromkeys(chain.from_iterable(classes.values())))
    for make, parameters in classes.items():
        if set(options) <= set(parameters):
            check_complete("update", options, parameters)
            return make(**options)
    kinds = ["/".join(parameters) for parameters in classes.values()]
    raise ExclusiveOptionsError(kinds, "update")
