"""Schedules from the user's options: a number, a list, a dict, a function."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sparsewright import schedules
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.schedules.formula import finite_number
from sparsewright.schedules.schedule import HyperParameterSchedule, ScheduleLike
from sparsewright.schedules.updates import (
    FreqSchedule,
    FunctionSchedule,
    UpdateLike,
    UpdateSchedule,
)
from sparsewright.schedules.values import Constant, Cycling, Lambda


def make_hyperparam_schedule(
    schedule: ScheduleLike, what: str = "schedule"
) -> HyperParameterSchedule:
    """Build a schedule from anything that stands for one.

    Args:
        schedule: a schedule (returned unchanged), a number or 0-d tensor (`Constant`), a list
            (`Cycling`), a function of the step (`Lambda`), or a dict `{"type": name, ...}` with
            the arguments of the class of that name.
        what: the option's name, for errors.

    Raises:
        OptionError: an unknown type or argument, or a missing one.
        OptionTypeError: anything else.

    >>> make_hyperparam_schedule({"type": "linear", "init": 0.1, "slope": 0.02})
    Linear(init=0.1, slope=0.02)
    """
    if isinstance(schedule, HyperParameterSchedule):
        return schedule
    if isinstance(schedule, Real) and not isinstance(schedule, bool):
        return Constant(finite_number(what, schedule))
    if isinstance(schedule, Tensor) and _is_number(schedule):
        wide = schedule.float() if schedule.dtype == torch.bfloat16 else schedule
        return Constant(float(str(wide.detach().cpu().numpy())))
    if isinstance(schedule, Mapping):
        return _value_from_dict(schedule, what)
    if isinstance(schedule, list | tuple):
        return Cycling(schedule)
    if callable(schedule) and not isinstance(schedule, type):
        return Lambda(schedule)
    raise OptionTypeError(
        what, schedule, "a number, a list of numbers, a dict with 'type', a function of the step"
    )


def make_update_schedule(update: UpdateLike) -> UpdateSchedule:
    """Build an update schedule from anything that stands for one.

    Args:
        update: None (every step), an int (`freq`), a dict with `freq`/`start`/`stop` or `steps`,
            a function `step -> bool`, or an `UpdateSchedule` (returned unchanged).

    Raises:
        OptionError: an unknown key, or a number out of range.
        OptionTypeError: anything else.

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
        return FreqSchedule(freq=update)
    if callable(update) and not isinstance(update, type):
        return FunctionSchedule(update)
    raise OptionTypeError(
        "update", update, "None, an integer, a dict (freq, start, stop or steps), a function"
    )


def _is_number(tensor: Tensor) -> bool:
    """Return whether a tensor is one real number."""
    is_real = tensor.dtype != torch.bool and not tensor.is_complex()
    return tensor.ndim == 0 and is_real and not tensor.is_meta


def _value_from_dict(options: Mapping[str, Any], what: str) -> HyperParameterSchedule:
    """Build the schedule whose class has the name `type`."""
    classes = {each.name: each for each in schedules.ALL}
    arguments = dict(options)
    if "type" not in arguments:
        raise OptionError(f"{what} without 'type'", arguments, f"type: {', '.join(classes)}")
    kind = arguments.pop("type")
    make = classes.get(kind.lower()) if isinstance(kind, str) else None
    if make is None:
        raise OptionError(f"type of {what}", kind, list(classes))
    _check_known(f"key of {what} {kind!r}", arguments, _parameters(make))
    _check_complete(f"{what} {kind!r}", arguments, _parameters(make))
    return make(**arguments)


def _update_from_dict(options: Mapping[str, Any]) -> UpdateSchedule:
    """Build a schedule of the first class that has all keys as arguments."""
    classes = {each: _parameters(each) for each in schedules.UPDATES}
    known = dict.fromkeys(name for parameters in classes.values() for name in parameters)
    _check_known("key of update", options, known)
    for make, parameters in classes.items():
        if set(options) <= set(parameters):
            _check_complete("update", options, parameters)
            return make(**options)
    kinds = " or ".join(f"({', '.join(parameters)})" for parameters in classes.values())
    raise OptionError("update", dict(options), f"either {kinds}")


def _parameters(make: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor, by name."""
    return inspect.signature(make).parameters


def _check_known(what: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise if an option is not one of the known names."""
    for key in options:
        if key not in known:
            raise OptionError(what, key, list(known))


def _check_complete(
    what: str, options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Raise if an argument without default is missing."""
    for name, p in parameters.items():
        if p.default is p.empty and name not in options:
            raise OptionError(f"{what} without {name!r}", dict(options), list(parameters))
