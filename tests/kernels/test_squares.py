"""Histograms of squares; `tests/distributions/test_lamp.py` tests what they are for."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright.kernels import native, reference
from sparsewright.kernels.reference import LIMB, MANTISSA

ANY = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def make_entries(kind, n, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    if kind == "ties":
        x = x.mul(2).round()  # with -0.0 among them
    elif kind == "wide":  # squares from 0 to infinity
        x = torch.exp(x * 300) * x.sign()
    return x.to(dtype)


def bits_of(entries):
    """Return the bits of the squares, one entry at a time."""
    sizes = [min(abs(value), 2.0**500) for value in entries.double().tolist()]
    return torch.tensor([size * size for size in sizes], dtype=torch.float64).view(torch.int64)


def sums_of(table):
    """Return the counts, and the sums of mantissas as Python integers."""
    count, upper, lower = table.flatten(1).tolist()
    return count, [(a << LIMB) + b for a, b in zip(upper, lower, strict=True)]


@ANY
@given(
    st.one_of(st.integers(0, 40), st.just(3000)),
    st.sampled_from(["normal", "ties", "wide"]),
    st.sampled_from([(52, 11), (41, 11), (0, 8), (8, 11)]),
    st.integers(0, 999),
)
def test_a_histogram_counts_and_sums(kernels, dtype, n, kind, digit, seed):
    (shift, width), entries = digit, make_entries(kind, n, dtype, seed)
    bits = bits_of(entries)
    prefixes = (bits >> (shift + width)).unique()[:40]
    entries = entries[torch.isin(bits >> (shift + width), prefixes)]
    if not len(prefixes):
        return
    table = kernels.tabulate_squares(entries, prefixes, shift, width)
    assert table.shape == (3, len(prefixes), 1 << width)
    count, total = [0] * (len(prefixes) << width), [0] * (len(prefixes) << width)
    for value in bits_of(entries).tolist():
        place = prefixes.tolist().index(value >> (shift + width)) << width
        place += (value >> shift) & ((1 << width) - 1)
        count[place] += 1
        total[place] += value % (1 << MANTISSA) + (1 << MANTISSA)
    assert sums_of(table) == (count, total)


@ANY
@given(
    st.one_of(st.integers(0, 40), st.just(3000)),
    st.sampled_from(["normal", "ties", "wide"]),
    st.integers(0, 999),
    st.data(),
)
def test_gather_keeps_the_order(kernels, dtype, n, kind, seed, data):
    entries = make_entries(kind, n, dtype, seed)
    bits = bits_of(entries)
    ends = [0, 1 << 52, 1023 << 52, bits_of(torch.tensor([math.inf])).item(), *bits[:9].tolist()]
    low, high = sorted(data.draw(st.sampled_from(ends)) for _ in range(2))
    expected = entries.abs()[(bits >= low) & (bits <= high)]
    assert torch.equal(kernels.gather_squares(entries, low, high), expected)


def test_threads_sum_large_histograms(kernels):
    entries = torch.randn(1_200_000, generator=torch.Generator().manual_seed(0))
    every = torch.zeros(1, dtype=torch.int64)
    table = kernels.tabulate_squares(entries, every, 52, 11)
    assert sums_of(table) == sums_of(reference.tabulate_squares(entries, every, 52, 11))


def test_nan_has_the_largest_exponent(kernels, dtype):
    entries = torch.tensor([1.0, -math.nan, math.inf], dtype=dtype)
    table = kernels.tabulate_squares(entries, torch.zeros(1, dtype=torch.int64), 52, 11)
    expected = [1023, 1023 + 1000, 2047]  # infinity counts as 2**500
    assert table[0, 0].nonzero()[:, 0].tolist() == expected


@pytest.mark.skipif(native.module() is None, reason="needs the native kernels")
def test_the_native_module_checks_its_arguments():
    module, ones, isa = native.module(), torch.ones(4, 6), native.isa()
    first, table = torch.zeros(1, dtype=torch.int64), torch.zeros(3, 1, 8, dtype=torch.int64)
    for entries, shift, width, into, message in [
        (ones.T, 0, 3, table, "entries must be contiguous"),
        (ones, 0, 4, table, r"table must be \[3, prefixes, 2\^width\]"),
        (ones, 0, 3, table[:2], r"table must be \[3, prefixes, 2\^width\]"),
        (ones, -1, 3, table, "no such bits"),
        (ones, 61, 3, table, "no such bits"),
        (ones.long(), 0, 3, table, "entries are not floating point"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}$"):
            module.tabulate_squares(entries, first, shift, width, into, 1)
    for entries, out, message in [
        (ones.T, ones, "entries must be contiguous"),
        (ones, ones[:3], "out must be contiguous, with the size and dtype of the entries"),
        (ones, ones.double(), "out must be contiguous, with the size and dtype of the entries"),
        (ones.long(), ones.long(), "entries are not floating point"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}$"):
            module.gather_squares(entries, 0, 1, out, isa)
