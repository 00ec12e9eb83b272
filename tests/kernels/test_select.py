import math
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright import kernels as public
from sparsewright.kernels import reference

ANY = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ["normal", "ties", "zeros", "wide", "bits", "sorted", "constant"]


def brute_force(score, num, among, magnitude):
    mask = torch.zeros(score.shape, dtype=torch.bool)
    for row, count in enumerate(num):
        values = score[row].double().tolist()
        if magnitude:
            values = list(map(abs, values))
        indices = [i for i in range(len(values)) if among is None or among[row, i]]
        mask[row, sorted(indices, key=lambda i: (-values[i], i))[:count]] = True
    return mask


def make_score(kind, rows, n, dtype, generator):
    x = torch.randn(rows, n, generator=generator)
    if kind == "ties":
        x = x.mul(2).round()  # with -0.0 among them
    elif kind == "zeros":
        x[torch.rand(rows, n, generator=generator) < 0.8] = -0.0
    elif kind == "wide":  # subnormals to inf
        x = torch.exp(x * 60) * x.sign()
        x[:, ::11] = math.inf
        x[:, 1::13] = -math.inf
    elif kind == "bits":
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.to(dtype).element_size()]
        info = torch.iinfo(integer)
        raw = torch.randint(info.min, info.max, (rows, n), generator=generator, dtype=integer)
        return raw.view(dtype).nan_to_num()
    elif kind == "sorted":
        x = x.sort(dim=1).values
    elif kind == "constant":
        x = torch.ones(rows, n)
    return x.to(dtype)


@ANY
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 3),
    n=st.one_of(st.integers(0, 12), st.integers(50, 140), st.integers(250, 900), st.just(4200)),
    density=st.sampled_from([None, 0.0, 0.1, 0.6, 1.0]),
    part=st.floats(0, 1.2),
    magnitude=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_brute_force(kernels, dtype, kind, rows, n, density, part, magnitude, seed):
    generator = torch.Generator().manual_seed(seed)
    score = make_score(kind, rows, n, dtype, generator)
    among = None if density is None else torch.rand(rows, n, generator=generator) < density
    num = [int(part * n * (row + 1) / rows) for row in range(rows)]
    expected = brute_force(score, num, among, magnitude)
    assert torch.equal(kernels.select(score, num, among, magnitude), expected)


@ANY
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 600),
    n=st.integers(1, 34),
    density=st.sampled_from([None, 0.0, 0.5]),
    one_number=st.booleans(),
    magnitude=st.booleans(),
    seed=st.integers(0, 999),
)
def test_many_tiny_rows(kernels, dtype, kind, rows, n, density, one_number, magnitude, seed):
    generator = torch.Generator().manual_seed(seed)
    score = make_score(kind, rows, n, dtype, generator)
    among = None if density is None else torch.rand(rows, n, generator=generator) < density
    num = torch.randint(0, n + 3, (rows,), generator=generator).tolist()
    num = [seed % (n + 2)] * rows if one_number else num
    expected = brute_force(score, num, among, magnitude)
    given_num = seed % (n + 2) if one_number else num
    assert torch.equal(kernels.select(score, given_num, among, magnitude), expected)


@pytest.mark.parametrize("n", [1, 4, 16, 17])
def test_nan_in_the_first_of_many_tiny_rows_is_named(kernels, dtype, n):
    score = torch.ones(70_000, n, dtype=dtype)
    score[69_000:, n - 1] = score[301, 0] = math.nan
    with pytest.raises(ValueError, match=r"row 301$"):
        kernels.select(score, 1)
    among = torch.ones(score.shape, dtype=torch.bool)
    among[301, 0] = False
    with pytest.raises(ValueError, match=r"row 69000$"):
        kernels.select(score, 1, among)


def test_one_number_for_all_rows_takes_no_memory():
    num = reference.check_select(torch.ones(5000, 4), 2, None)
    assert num.tolist() == [2] * 5000
    assert num.untyped_storage().nbytes() == 8


@lru_cache
def ranked_long_row(kind, density, dtype):
    n = 530_001  # long enough that threads share the row
    generator = torch.Generator().manual_seed(1)
    score = make_score(kind, 1, n, dtype, generator)
    among = None if density is None else torch.rand(1, n, generator=generator) < density
    ranked = score.abs().double()
    if among is not None:
        ranked = ranked.masked_fill(~among, -1)
    order = ranked.argsort(dim=1, descending=True, stable=True)[0]
    live = n if among is None else int(among.sum())
    return score, among, order, live, int((ranked > 0).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [None, 0.1])
def test_long_row_equals_a_stable_sort(kernels, dtype, kind, density):
    score, among, order, live, zeros = ranked_long_row(kind, density, dtype)
    n = score.shape[1]
    for num in {0, 1, live // 10, live // 2, live - 1, zeros - 1, zeros, zeros + 1, n}:
        expected = torch.zeros(1, n, dtype=torch.bool)
        expected[0, order[: max(0, min(num, live))]] = True
        assert torch.equal(kernels.select(score, max(num, 0), among), expected), num


def test_threads_share_ties_in_index_order(kernels):
    score = torch.zeros(1, 1_000_000)
    score[0, 999_999] = 1
    mask = kernels.select(score, 700_000)
    assert mask[0, :699_999].all()
    assert mask[0, 999_999]
    assert int(mask.sum()) == 700_000


@pytest.mark.parametrize("n", [1, 5, 64, 65, 300, 5000, 600_000])
def test_nan_among_candidates_is_an_error(kernels, dtype, n):
    for sign in (1, -1):
        score = torch.ones(5, n, dtype=dtype)
        score[2, n - 1] = score[4, 0] = math.copysign(math.nan, sign)
        for num in (0, 1, n // 2, n):
            for magnitude in (True, False):
                with pytest.raises(ValueError, match="row 2"):
                    kernels.select(score, num, None, magnitude)
        among = ~score.isnan()
        assert torch.equal(kernels.select(score, n, among), among)


@pytest.mark.parametrize("shape", [(4096, 10), (3000, 64), (1000, 65), (64, 4096)])
def test_many_rows(kernels, dtype, shape):
    generator = torch.Generator().manual_seed(2)
    score = make_score("normal", *shape, dtype, generator)
    num = torch.randint(0, shape[1] + 1, (shape[0],), generator=generator)
    order = score.abs().double().argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(shape[1]).expand(shape))
    assert torch.equal(kernels.select(score, num), rank < num[:, None])


def sampled_positions(n):
    """Return the positions at which csrc/threshold.h samples a row without `among`."""
    m = round(n ** (2 / 3) - 0.5)
    return [int((j + (j * 2654435761 % 2**32) / 2**32) * n / m) for j in range(m)]


@pytest.mark.parametrize("step", [0.01, 1.0])  # few ties, many ties
@pytest.mark.parametrize("trick", ["high", "low", "split"])
@pytest.mark.parametrize("n", [4097, 50_000])
def test_a_sample_that_lies(kernels, dtype, n, trick, step):
    """The bracket misses the threshold or holds nearly all entries, so the histogram decides."""
    score = torch.randn(1, n, generator=torch.Generator().manual_seed(4)).div(step).round()
    at = torch.tensor([i for i in sampled_positions(n) if i < n])
    lie = torch.linspace(1e3, 2e3, len(at))
    lie = {"high": lie, "low": -lie, "split": torch.where(at % 2 == 0, lie, -lie)}[trick]
    score[0, at] = lie
    score = score.to(dtype)
    order = score.double().argsort(dim=1, descending=True, stable=True)[0]
    for num in (n // 3, n // 2, n - n // 4):
        expected = torch.zeros(1, n, dtype=torch.bool)
        expected[0, order[:num]] = True
        assert torch.equal(kernels.select(score, num, None, False), expected)


@pytest.mark.parametrize("offset", [1, 3, 17])
def test_unaligned_slices(kernels, dtype, offset):
    score = torch.randn(5000, generator=torch.Generator().manual_seed(3)).to(dtype)
    among = score.abs() > 0.5
    a, b = score[offset:][None], among[offset:][None]
    expected = kernels.select(a.clone(), 700, b.clone())
    assert torch.equal(kernels.select(a, 700, b), expected)


def test_flush_to_zero_mode_changes_nothing(kernels):
    if not torch.set_flush_denormal(True):
        return  # this CPU has no such mode
    try:
        tiny = torch.tensor([[1, 3, 2, 0]], dtype=torch.int32).view(torch.float32)
        assert kernels.select(tiny, 2).tolist() == [[False, True, True, False]]
    finally:
        torch.set_flush_denormal(False)


def test_rejects_wrong_arguments():
    score = torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"score must be float16, .* or float64; got torch.int32"):
        public.select(torch.ones(2, 3, dtype=torch.int32), 1)
    with pytest.raises(TypeError, match=r"mask must be bool; got torch.float32"):
        public.select(score, 1, torch.ones(2, 3))
    with pytest.raises(TypeError, match=r"num must contain integers; got torch.float32"):
        public.select(score, torch.ones(2))
    for negative in (-1, [1, -1]):
        with pytest.raises(ValueError, match="num must not be negative; got -1"):
            public.select(score, negative)
    for bad in ([1], [1, 2, 3], [[1, 2]]):
        with pytest.raises(ValueError, match=r"num must have shape \[rows\] = \(2,\); got \("):
            public.select(score, bad)
    with pytest.raises(ValueError, match=r"score must have shape \[rows, n\]; got \(3,\)"):
        public.select(torch.ones(3), 1)
    with pytest.raises(ValueError, match=r"the tensor's shape \(2, 3\); got \(3, 2\)"):
        public.select(score, 1, torch.ones(3, 2, dtype=torch.bool))


def test_takes_what_is_not_contiguous_or_needs_grad():
    base = torch.randn(40, 30, requires_grad=True)
    among = torch.rand(40, 30) < 0.5
    expected = public.select(base.detach().t().contiguous(), 5, among.t().contiguous())
    assert torch.equal(public.select(base.t(), 5, among.t()), expected)


def test_a_lazily_negated_view_is_ranked_by_its_values():
    negated = torch._neg_view(torch.randn(3, 7))
    assert negated.is_contiguous()
    expected = public.select(negated.resolve_neg(), 1, None, False)
    assert torch.equal(public.select(negated, 1, None, False), expected)


def test_a_row_with_fewer_candidates_marks_them_all(kernels):
    mask = torch.rand(7, 100) < 0.3
    assert torch.equal(kernels.select(mask.float(), 100, mask), mask)
