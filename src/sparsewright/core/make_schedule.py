"""Schedules from what a user gives for one: a number, a list, a dict, a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.errors import OptionError, OptionTypeError
from sparsewright.core.schedules import (
    Constant,
    Cosine,
    Cubic,
    Cycling,
    Exp,
    HyperParameterSchedule,
    Lambda,
    Linear,
    Power,
    finite_number,
)

_SCHEDULES: dict[str, Callable[..., HyperParameterSchedule]] = {
    "constant": Constant,
    "linear": Linear,
    "exp": Exp,
    "power": Power,
    "cosine": Cosine,
    "cubic": Cubic,
    "cycling": Cycling,
    "lambda": Lambda,
}


def make_hyperparam_schedule(schedule: Any, what: str = "schedule") -> HyperParameterSchedule:
    """Build a schedule from anything that stands for one.

    Args:
        schedule: a schedule (returned as it is), a number (`Constant`), a list (`Cycling`), a
            function of the step (`Lambda`), or a dict `{"type": name, ...}` with the arguments.
        what: the option's name, for errors.

    Raises:
        OptionError: unknown type or argument, or one missing.
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
        return _from_dict(schedule, what)
    if isinstance(schedule, list | tuple):
        return Cycling(schedule)
    if callable(schedule) and not isinstance(schedule, type):
        return Lambda(schedule)
    raise OptionTypeError(
        what, schedule, "a number, a list of numbers, a dict with 'type', a function of the step"
    )


def _is_number(tensor: Tensor) -> bool:
    """Whether a tensor is one real number."""
    is_real = tensor.dtype != torch.bool and not tensor.is_complex()
    return tensor.ndim == 0 and is_real and not tensor.is_meta


def _from_dict(options: Mapping[str, Any], what: str) -> HyperParameterSchedule:
    options = dict(options)
    if "type" not in options:
        raise OptionError(f"{what} without 'type'", options, f"type: {', '.join(_SCHEDULES)}")
    kind = options.pop("type")
    make = _SCHEDULES.get(kind.lower()) if isinstance(kind, str) else None
    if make is None:
        raise OptionError(f"type of {what}", kind, list(_SCHEDULES))
    parameters = inspect.signature(make).parameters
    for key in options:
        if key not in parameters:
            raise OptionError(f"key of {what} {kind!r}", key, list(parameters))
    missing = [
        name for name, p in parameters.items() if p.default is p.empty and name not in options
    ]
    if missing:
        raise OptionError(f"{what} {kind!r} without {missing[0]!r}", options, list(parameters))
    return make(**options)
