"""What one weight costs: against the library, and numbers by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsewright
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.kernels import csr
from sparsewright.plan.costs import (
    HISTOGRAM_BYTES,
    METHODS,
    Precision,
    held_bytes,
    index_bytes,
    selection_rounds,
    step_flops,
)

MIXED = Precision(torch.bfloat16, torch.bfloat16, torch.float32, master=True)


@given(
    st.integers(1, 40), st.integers(1, 600), st.floats(0, 1), st.integers(0, 2**31), st.booleans()
)
def test_index_bytes_are_those_of_the_library(rows, cols, density, seed, transpose):
    shape = (cols, rows) if transpose else (rows, cols)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    layout = csr.layout_from_mask(mask)
    assert index_bytes(*shape, layout.nnz) == layout.nbytes


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
    held = held_bytes(7, 5, precision, states, is_frozen=is_frozen)
    assert (held.weight, held.gradient, held.state) == tuple(7 * n for n in bytes_each)
    assert held.mask == 5
    assert held.total == 7 * sum(bytes_each) + 5


@pytest.mark.parametrize(
    ("name", "temporary", "selections"),
    [
        ("static", 0, []),
        ("gmp", 1, [("all", torch.bfloat16)]),
        ("set", 7, [("live", torch.bfloat16), ("pruned", torch.float32)]),
        ("rigl", 3, [("live", torch.bfloat16), ("pruned", torch.bfloat16)]),
    ],
)
def test_updates_by_hand(name, temporary, selections):
    assert METHODS[name].temporary_bytes == temporary
    assert METHODS[name].selections(MIXED) == selections


def test_methods_are_those_of_the_library():
    classes = {cls.__name__.lower(): cls for cls in (sparsewright.Static, sparsewright.GMP)}
    classes |= {"set": sparsewright.SET, "rigl": sparsewright.RigL}
    assert set(METHODS) == set(classes)
    for name, cls in classes.items():
        is_dynamic = issubclass(cls, DynamicSparsityAlgorithm)
        needs = is_dynamic and cls.needs_dense_gradient
        assert METHODS[name].needs_dense_gradient == needs, name
        assert bool(METHODS[name].among) == is_dynamic, name


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
