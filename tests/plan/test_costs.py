"""Test the cost of one weight against the library's buffers and hand-computed numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.support import UserDefined
from sparsewright.algorithms import ALL
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.kernels import csr
from sparsewright.layers import kind_of
from sparsewright.plan.costs import (
    HISTOGRAM_BYTES,
    METHODS,
    Method,
    Precision,
    held_bytes,
    selection_rounds,
    step_flops,
)
from sparsewright.storage.storage import Footprint

MIXED = Precision(torch.bfloat16, torch.bfloat16, torch.float32, master=True)


@given(
    st.integers(1, 40), st.integers(1, 600), st.floats(0, 1), st.integers(0, 2**31), st.booleans()
)
def test_bytes_of_an_index_are_those_of_the_library(rows, cols, density, seed, transpose):
    shape = (cols, rows) if transpose else (rows, cols)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    layout = csr.layout_from_mask(mask)
    cost = kind_of(torch.nn.Linear(1, 1)).cost(shape, layout.nnz, torch.float32)
    assert (cost.value_bytes, cost.index_bytes) == (4 * layout.nnz, layout.nbytes)
    assert cost.flops == 2 * layout.nnz


def test_rounds_of_sixteen_bits():
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    assert [selection_rounds(dtype) for dtype in dtypes] == [2, 2, 3, 6]


@pytest.mark.parametrize(
    ("precision", "states", "is_frozen", "bytes_each"),
    [
        (Precision.of(torch.float32), 2, False, (4, 4, 8)),
        (Precision.of(torch.bfloat16), 1, False, (2, 2, 2)),
        (MIXED, 2, False, (2, 2, 12)),
        (MIXED, 0, False, (2, 2, 4)),
        (MIXED, 2, True, (2, 0, 0)),
    ],
)
def test_held_bytes_by_hand(precision, states, is_frozen, bytes_each):
    held = held_bytes(Footprint(7, 5), precision, states, is_frozen=is_frozen)
    assert (held.weight, held.gradient, held.state) == tuple(7 * n for n in bytes_each)
    assert held.mask == 5
    assert held.total == 7 * sum(bytes_each) + 5
    shadowed = held_bytes(Footprint(7, 5, 3), precision, states, is_frozen=is_frozen)
    assert shadowed.total == held.total + 3 * bytes_each[0]


@pytest.mark.parametrize(
    ("name", "temporary", "selections"),
    [
        ("static", 0, []),
        ("gmp", 1, [("all", torch.bfloat16)]),
        ("set", 7, [("live", torch.bfloat16), ("pruned", torch.float32)]),
        ("rigl", 3, [("live", torch.bfloat16), ("pruned", torch.bfloat16)]),
        ("ste", 1, [("all", torch.bfloat16)]),
    ],
)
def test_updates_by_hand(name, temporary, selections):
    assert METHODS[name].temporary_bytes == temporary
    assert METHODS[name].selections(MIXED) == selections


def test_methods_are_those_of_the_library():
    assert list(METHODS) == [cls.name for cls in ALL]
    for cls in ALL:
        method = METHODS[cls.name]
        assert method.needs_dense_gradient == cls.needs_dense_gradient, cls.name
        assert bool(method.choices) == issubclass(cls, DynamicSparsityAlgorithm), cls.name
        reads_gradient = any(score == "gradient" for _, score in method.choices)
        assert reads_gradient == cls.needs_dense_gradient, cls.name


def test_a_new_algorithm_chooses_by_magnitude_unless_it_says_otherwise():
    assert Method.of(UserDefined) == METHODS["gmp"]


def test_histograms_fit_the_kernels_digit():
    assert HISTOGRAM_BYTES == 8 * 2048


@pytest.mark.parametrize(
    ("density", "is_frozen", "needs", "passes"),
    [
        (1.0, False, False, 3.0),
        (1.0, True, False, 2.0),
        (0.25, False, False, 0.75),
        (0.25, False, True, 1.5),
        (0.25, True, True, 0.5),
    ],
)
def test_flops_by_hand(density, is_frozen, needs, passes):
    found = step_flops(100, density, is_frozen=is_frozen, needs_dense_gradient=needs)
    assert found == 100 * passes
