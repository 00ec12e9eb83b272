"""Joint selection; `tests/distributions` has brute-force tests, `tests/distributed` the shards."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright.kernels import NanError, native, reference
from sparsewright.kernels.joint import count_largest

ANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ["normal", "ties", "zeros", "wide", "constant", "two values", "sorted"]


def make_tensor(kind, n, dtype, generator):
    x = torch.randn(n, generator=generator)
    if kind == "ties":
        x = x.mul(2).round()  # with -0.0 among them
    elif kind == "zeros":
        x[torch.rand(n, generator=generator) < 0.8] = -0.0
    elif kind == "wide":  # subnormals to inf
        x = torch.exp(x * 60) * x.sign()
    elif kind == "constant":
        x = torch.ones(n)
    elif kind == "two values":
        x = 1.0 + (x > 2)
    elif kind == "sorted":
        x = x.sort().values
    return x.to(dtype)


@ANY
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 300, 4000, 65_536, 70_001]), min_size=1, max_size=4),
    kind=st.sampled_from(KINDS),
    density=st.sampled_from([None, 0.0, 0.1, 1.0]),
    part=st.one_of(st.sampled_from([0, 0.1, 0.5, 1]), st.floats(0, 1.1)),
    magnitude=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_one_selection(kernels, dtype, sizes, kind, density, part, magnitude, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = [make_tensor(kind, n, dtype, generator) for n in sizes]
    num, among, candidates = int(part * sum(sizes)), None, None
    if density is not None:
        among = [torch.rand(n, generator=generator) < density for n in sizes]
        candidates = torch.cat(among)[None]
    mask = reference.select(torch.cat(tensors)[None], num, candidates, magnitude)[0]
    expected = [int(each.sum()) for each in mask.split(sizes)]
    assert kernels.count_largest(tensors, num, among, magnitude) == expected


@pytest.mark.parametrize("num", [1, 2, 99_999, 100_000, 100_001, 199_999, 200_000])
def test_a_sample_that_misses_everything_between_rare_values(kernels, num):
    tensor = torch.zeros(200_000)
    tensor[100_000:] = 1
    tensor[77], tensor[150_000] = 0.5, 2  # hardly ever sampled
    expected = [
        int((reference.select(tensor[None], num)[0, part]).sum())
        for part in (slice(0, 90_000), slice(90_000, None))
    ]
    assert kernels.count_largest([tensor[:90_000], tensor[90_000:]], num) == expected


def test_nan_at_any_place(kernels, dtype):
    for place in (0, 65_535, 65_536, 70_000):
        tensors = [torch.ones(9, dtype=dtype), torch.ones(70_001, dtype=dtype)]
        tensors[1][place] = -math.nan
        for num in (0, 5, 70_010):
            with pytest.raises(NanError):
                kernels.count_largest(tensors, num)
        among = [torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors]
        among[1][place] = False
        assert kernels.count_largest(tensors, 20, among) == [9, 11]


@pytest.mark.skipif(native.module() is None, reason="needs the native kernels")
def test_the_native_module_checks_its_arguments():
    ones, isa = torch.ones(4, 6), native.isa()
    count = native.module().count_largest
    for tensors, among, num, message in [
        ([ones.T], None, 1, "a tensor is not contiguous"),
        ([ones, ones.double()], None, 1, "tensors have several dtypes"),
        ([ones.long()], None, 1, "score is not floating point"),
        ([ones], [], 1, "as many masks as tensors are needed"),
        ([ones], [ones], 1, "a mask is not bool and contiguous, with the size of its tensor"),
        ([ones], [ones[:2] > 0], 1, "a mask is not bool and contiguous, with the size of its "),
        ([ones], None, -1, "num must not be negative"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            count(tensors, among, num, True, 1, isa)


def test_candidates():
    tensors = [torch.tensor([[3.0, -1.0]]), torch.tensor([-2.0, 5.0])]
    among = [torch.tensor([[True, True]]), torch.tensor([True, False])]
    assert count_largest(tensors, 2) == [1, 1]
    assert count_largest(tensors, 2, among) == [1, 1]
    assert count_largest(tensors, 9) == [2, 2]
    assert count_largest(tensors, 9, among) == [2, 1]
    assert count_largest(tensors, 0, among) == [0, 0]
    assert count_largest([], 3) == []
    assert count_largest(tensors, 2, magnitude=False) == [1, 1]
    assert count_largest(tensors, 3, magnitude=False) == [2, 1]
    assert count_largest(tensors, 2, among, magnitude=False) == [2, 0]


def test_nan_counts_among_the_candidates_only():
    tensors = [torch.tensor([torch.nan, 1.0]), torch.tensor([2.0])]
    with pytest.raises(NanError):
        count_largest(tensors, 1)
    among = [torch.tensor([False, True]), torch.tensor([True])]
    assert count_largest(tensors, 1, among) == [0, 1]
