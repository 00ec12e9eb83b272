"""Packed masks, compared with a count of single entries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsewright.formats import mask_bits as m

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=19))


@given(masks)
def test_bits_read_back_and_are_counted(mask):
    bits = m.pack_bits(mask)
    assert m.why_not_packed(bits, mask.size) == ""
    assert np.array_equal(m.unpack_bits(bits, mask.shape), mask)
    expected = sum(bool(x) for x in mask.flat)
    assert m.count_bits(bits) == expected
    assert m._slow_count(bits) == expected


@given(st.lists(st.booleans(), max_size=40))
def test_bits_are_the_entries_in_order(entries):
    bits = m.pack_bits(np.array(entries, dtype=bool))
    assert [bool(bits[i // 8] >> (i % 8) & 1) for i in range(len(entries))] == entries


@pytest.mark.parametrize(
    ("bits", "size", "problem"),
    [
        (np.array([255], np.uint8), 8, ""),
        (np.array([], np.uint8), 0, ""),
        (np.array([255], np.uint8), 7, "bits are set beyond its 7 entries"),
        (np.array([1, 0], np.uint8), 8, "expected shape (1,) for 8 entries"),
        (np.array([[1]], np.uint8), 8, "expected shape (1,) for 8 entries"),
        (np.array([1], np.int8), 8, "expected dtype uint8, got int8"),
    ],
)
def test_why_not_packed(bits, size, problem):
    assert m.why_not_packed(bits, size) == problem
