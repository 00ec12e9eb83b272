"""Checks of a weight's output and input dimensions, for several structures."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewright.errors import ShapeError


def check_side(shape: Sequence[int], side: str, dim: int) -> int:
    """Return the size of a weight's output or input dimension.

    Args:
        shape: shape of the weight.
        side: `"output"` or `"input"`, for the error message.
        dim: dimension of the weight that holds this side.

    Raises:
        ShapeError: the weight has no such dimension.
    """
    if len(shape) <= dim:
        raise ShapeError("a weight", shape, f"it has no {side} dimension")
    return shape[dim]


def divisors_around(size: int, wanted: int) -> str:
    """Return the divisors of a size that are closest to a number, below and above it.

    >>> divisors_around(12, 5), divisors_around(12, 20)
    ('4 or 6', '12')
    """
    below = next((n for n in range(min(wanted, size), 0, -1) if size % n == 0), None)
    above = next((n for n in range(wanted, size + 1) if size % n == 0), None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
