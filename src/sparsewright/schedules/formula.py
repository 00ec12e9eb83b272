"""Schedules that are a formula of the step, and the check of their numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real

import torch
from torch import Tensor

from sparsewright.core.step import Step, as_tensor
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.schedules.schedule import HyperParameterSchedule


class Formula(HyperParameterSchedule):
    """A formula of the step, evaluated in float64 over any number of steps.

    A subclass writes `_at` and passes its numbers, by name, to the constructor.
    """

    def __init__(self, **numbers: float) -> None:
        for name, value in numbers.items():
            number = finite_number(f"{name} of {type(self).__name__}", value)
            # Torch takes integers of 64 bits.
            is_small = isinstance(value, int) and abs(value) < 2**53
            setattr(self, name, value if is_small else number)

    @abstractmethod
    def _at(self, step: Tensor) -> Tensor:
        """Return the values at float64 `step`s, elementwise."""

    def compute(self, step: Step) -> Tensor:
        """Return the value at a step; see the class for the formula."""
        return self._at(as_tensor(step).double()).float()

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the smallest, largest and last value over the steps `begin..end`, inclusive."""
        values = self._at(torch.arange(begin, end + 1, dtype=torch.float64, device="cpu")).float()
        return values.min().item(), values.max().item(), values[-1].item()


def finite_number(what: str, value: object) -> float:
    """Return an option's number as a float.

    Raises:
        OptionTypeError: not a number.
        OptionError: not finite, or beyond the largest float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(what, value, "a finite number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(what, value, "a finite number")
    return number
