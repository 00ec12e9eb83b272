"""Calibration data as the user gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from sparsewright.errors import MissingOptionError, OptionTypeError

Batch = TypeVar("Batch")


def read_batches(batches: Iterable[Batch] | None, what: str) -> list[Batch]:
    """Return batches as a list.

    Args:
        batches: the batches; None if there are none.
        what: what needs them, for the error message; "" if they may be missing.

    Raises:
        MissingOptionError: there are none, but they are needed.
        OptionTypeError: the argument is a single batch, or not iterable.
    """
    allowed = "an iterable of batches, such as a list or a DataLoader"
    if isinstance(batches, Tensor | Mapping | str):
        advice = "To pass a single batch, put it into a list."
        raise OptionTypeError("batches", batches, allowed, advice)
    if batches is not None and not isinstance(batches, Iterable):
        raise OptionTypeError("batches", batches, allowed)
    data = [] if batches is None else list(batches)
    if what and not data:
        advice = "The iterable is empty." if batches is not None else ""
        raise MissingOptionError("batches", what, "calibration data", advice=advice)
    return data
