"""The check that all entries are finite, compared with a check of each entry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.kernels.reference import entries_finite

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
# Sizes around the widths of vector registers, and above the size at which torch uses threads.
SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1000, 70_000]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_one_bad_entry_anywhere_is_found(size, dtype):
    numbers = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
    numbers[::2] *= -1
    found = entries_finite(numbers)
    assert (found.dtype, found.shape, bool(found)) == (torch.bool, (), True)
    for bad in (math.nan, math.inf, -math.inf):
        for at in {0, size // 2, size - 1} if size else ():
            damaged = numbers.clone()
            damaged[at] = complex(0, bad) if dtype.is_complex else bad
            assert not entries_finite(damaged), (bad, at)


@given(st.lists(st.floats(width=32), max_size=40), st.integers(1, 3))
def test_any_numbers_in_any_stride(numbers, stride):
    spread = torch.zeros(len(numbers), stride)
    spread[:, 0] = torch.tensor(numbers)
    assert bool(entries_finite(spread[:, 0])) == all(map(math.isfinite, numbers))


def test_views_of_complex_numbers_and_gradients():
    numbers = torch.randn(6, dtype=torch.complex64, requires_grad=True)
    assert entries_finite(numbers.conj())
    assert not entries_finite((numbers * math.inf).conj())
