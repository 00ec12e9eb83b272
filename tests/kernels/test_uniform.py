"""Uniform numbers by key and position, compared with Python integers and tested statistically."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright import kernels as public

BITS = (1 << 64) - 1


def twin(key, first, count):
    """Return numbers of SplitMix64 as in its paper, after `first` steps."""
    state, numbers = (key + first * 0x9E3779B97F4A7C15) & BITS, []
    for _ in range(count):
        state = z = (state + 0x9E3779B97F4A7C15) & BITS
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
        numbers.append(z ^ (z >> 31))
    return numbers


def test_the_twin_gives_the_published_numbers():
    # The numbers for seed 1234567 at rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64.
    assert twin(1234567, 0, 5) == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]


KEYS = st.one_of(st.sampled_from([0, 1, BITS, 1 << 63]), st.integers(0, BITS))
FIRST = st.one_of(st.integers(0, 100), st.integers(0, (1 << 62)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, first=FIRST, count=st.integers(0, 70))
def test_every_path_gives_the_twins_numbers(kernels, key, first, count):
    found = torch.full((count,), -1.0)
    kernels.uniform_(found, key, first)
    assert found.tolist() == [(z >> 40) * 2**-24 for z in twin(key, first, count)]


@pytest.mark.parametrize("size", [(1 << 15) + 1, 1_000_003])
def test_parts_and_threads_make_the_whole(kernels, size):
    whole = torch.empty(size)
    kernels.uniform_(whole, 5, 0)
    assert torch.equal(public.uniform_(torch.empty(size), 5), whole)
    at = size // 3
    parts = [public.uniform_(torch.empty(n), 5, first) for n, first in ((at, 0), (size - at, at))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(public.uniform_(torch.empty(1, size, 1), 5).flatten(), whole)


def test_the_numbers_are_uniform_and_independent():
    size, bins = 1 << 20, 1 << 8
    for key in (0, 1, 2, 1 << 62):
        first = public.uniform_(torch.empty(size), key).double()
        second = public.uniform_(torch.empty(size), key + 1).double()
        assert first.min() >= 0
        assert first.max() < 1
        # Chi-square over `bins` bins or pairs has mean bins - 1 and deviation sqrt(2 bins) = 23.
        for other in (first.roll(1), second, first.roll(bins)):
            cells = (first * 16).long() * 16 + (other * 16).long()
            for numbers in ((first * bins).long(), cells):
                counts = numbers.bincount(minlength=bins).double()
                square = float((counts - size / bins).square().sum() / (size / bins))
                assert abs(square - (bins - 1)) < 5 * 23, (key, square)
        # The last of the 24 bits must be uniform too.
        assert abs(float(((first * (1 << 24)).long() & 1).double().mean()) - 0.5) < 5 / 2 / 1024


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"tensor must be float32; got torch.float64"):
        public.uniform_(torch.empty(3, dtype=torch.float64), 1)
    with pytest.raises(ValueError, match="tensor must be contiguous"):
        public.uniform_(torch.empty(4, 4).t(), 1)
    for key in (-1, 1 << 64):
        with pytest.raises(ValueError, match=rf"key must be in 0\.\.2\*\*64-1; got {key}"):
            public.uniform_(torch.empty(3), key, 0)
    for first in (-1, 1 << 63):
        with pytest.raises(ValueError, match=rf"first must be in 0\.\.2\*\*63-1; got {first}"):
            public.uniform_(torch.empty(3), 0, first)
