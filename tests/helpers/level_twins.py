"""Reference implementation of ER and ERK levels in fractions, and strategies for shapes."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

shapes_of_layers = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8
).map(lambda shapes: {f"layer{number}.weight": shape for number, shape in enumerate(shapes)})


def kernel_ratio(shape):
    """Return the ratio of ERK, which counts kernel sizes."""
    return Fraction(sum(shape), math.prod(shape))


def channel_ratio(shape):
    """Return the ratio of ER, which counts the first two dimensions only."""
    return Fraction(sum(shape[:2]), math.prod(shape[:2]))


def published(shapes, level, stay=(), count_all=False, ratio=kernel_ratio):
    """Return levels by the rule in the paper's code, with fractions instead of floats."""
    dense, custom = set(stay), set() if count_all else set(stay)
    while True:
        divisor, remaining, raw = 0, 0, {}
        for name, shape in shapes.items():
            size = math.prod(shape)
            zeros = math.floor(Fraction(str(level)) * size)
            if name in custom:
                continue
            if name in dense:
                remaining -= zeros
                continue
            raw[name] = ratio(shape)
            divisor += raw[name] * size
            remaining += size - zeros
        scale = remaining / divisor if raw else 0
        if not raw or scale * max(raw.values()) <= 1:
            return {name: 1 - scale * raw[name] if name in raw else 0 for name in shapes}
        dense |= {name for name in raw if raw[name] == max(raw.values())}


def budget_of(shapes, level):
    """Return the number of entries to keep, with the number of zeros per layer rounded down."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    return sum(size - math.floor(Fraction(str(level)) * size) for size in sizes)


def density_sum(shapes, found):
    return sum((1 - found[name]) * math.prod(shape) for name, shape in shapes.items())
