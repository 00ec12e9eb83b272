"""Brute-force reference implementations in plain Python, and Hypothesis strategies for inputs."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LEVELS = [0.0, 1.0, 0.5, 0.1, 0.3, 0.25, 0.9, 0.99, 0.3333]


def kept_exactly(level: float, n: int) -> int:
    """Return `floor(round((1 - level) * n, 6))`, computed with fractions."""
    product = (1 - Fraction(str(level))) * n
    return math.floor(round(product, 6))


def kept_in_decimal(level: float, n: int) -> int:
    """Return `floor(round((1 - level) * n, 6))`, computed in decimal arithmetic."""
    product = (Decimal(1) - Decimal(str(level))) * n
    return int(round(product, 6).to_integral_value(ROUND_FLOOR))


def best(scores: list[float], candidates: list[int], num: int) -> set[int]:
    """Return the `num` candidates with the largest scores; lower indices win ties."""
    return set(sorted(candidates, key=lambda index: (-scores[index], index))[: max(num, 0)])


def rows_of(shape: tuple[int, ...], dim: int | None, groups: int) -> list[list[int]]:
    """Return the flat indices of each row of competing entries.

    All entries compete, or those in the same group of one dimension.
    """
    size = math.prod(shape)
    if dim is None:
        return [list(range(size))]
    rows: list[list[int]] = [[] for _ in range(groups)]
    stride = math.prod(shape[dim + 1 :])
    for flat in range(size):
        position = flat // stride % shape[dim]
        rows[position // (shape[dim] // groups)].append(flat)
    return rows


def as_mask(shape: tuple[int, ...], chosen: set[int]) -> Tensor:
    """Return a bool tensor that is True at the chosen flat indices."""
    flat = [index in chosen for index in range(math.prod(shape))]
    return torch.tensor(flat, dtype=torch.bool).reshape(shape)


@st.composite
def contests(draw):
    """Draw a shape, a dimension to group by (or None) and a number of groups."""
    ndim = draw(st.integers(1, 4))
    shape = [draw(st.integers(0, 5)) for _ in range(ndim)]
    dim = draw(st.sampled_from([None, 0, 1])) if ndim > 1 else draw(st.sampled_from([None, 0]))
    groups = 1
    if dim is not None:
        groups = draw(st.integers(1, 3))
        shape[dim] = groups * draw(st.integers(1, 3))
    return tuple(shape), dim, groups


@st.composite
def scores(draw, shape, dtype=None):
    """Draw scores with many ties, infinities and negative zeros, all exact in any dtype."""
    values = st.one_of(
        st.integers(-3, 3).map(float), st.sampled_from([math.inf, -math.inf, -0.0, 0.5])
    )
    size = math.prod(shape)
    flat = draw(st.lists(values, min_size=size, max_size=size))
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    return torch.tensor(flat, dtype=dtype).reshape(shape)


@st.composite
def masks(draw, shape):
    """Draw a bool mask."""
    size = math.prod(shape)
    flat = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor(flat, dtype=torch.bool).reshape(shape)


levels = st.one_of(st.sampled_from(LEVELS), st.integers(0, 1000).map(lambda i: i / 1000))
