"""The base class of schedules that are a formula of the step."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from sparsewright.core.counts import as_number
from sparsewright.core.step import Step, as_tensor
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.schedules.schedule import HyperParameterSchedule


class Formula(HyperParameterSchedule):
    """Evaluate a formula of the step in float64, for any number of steps at a time.

    A subclass implements `_at` and passes its numbers to this constructor by name.
    """

    def __init__(self, **numbers: float) -> None:
        for name, value in numbers.items():
            number = finite_number(f"{name} of {type(self).__name__}", value)
            # torch raises on an int of more than 64 bits, so large ones become floats.
            is_small = isinstance(value, int) and abs(value) < 2**53
            setattr(self, name, value if is_small else number)

    @abstractmethod
    def _at(self, step: Tensor) -> Tensor:
        """Return the values at a float64 tensor of steps, elementwise."""

    def compute(self, step: Step) -> Tensor:
        """Return the value at a step; the class docstring has the formula."""
        return self._at(as_tensor(step).double()).float()

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the smallest, largest and last value over the steps `begin..end`, inclusive."""
        values = self._at(torch.arange(begin, end + 1, dtype=torch.float64, device="cpu")).float()
        return as_number(values.min()), as_number(values.max()), as_number(values[-1])


def finite_number(what: str, value: object) -> float:
    """Return an option's value as a finite float.

    A numpy scalar becomes the float with the shortest decimal that identifies it in its dtype.

    Raises:
        OptionTypeError: the value is not a number.
        OptionError: the value is not finite, or is too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(what, value, "a finite number")
    try:
        number = float(str(value) if isinstance(value, np.floating) else value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(what, value, "a finite number")
    return number
