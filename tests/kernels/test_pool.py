import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright import kernels as public
from sparsewright.kernels import native, reference

ANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
POOLINGS = ["sum", "squares", "max"]
SHAPES = st.one_of(
    st.tuples(*[st.integers(0, 9)] * 4),
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(480, 2200)),
)


def tree(values, combine):
    """Combine neighbors first; a last value without a neighbor is carried over."""
    while len(values) > 1:
        last = values[-1:] if len(values) % 2 else []
        pairs = zip(values[0::2], values[1::2], strict=False)
        values = [combine(a, b) for a, b in pairs] + last
    return values[0]


def by_hand(tensor, pooling, magnitude):
    """Pool each block with Python floats."""
    values = (tensor.abs() if magnitude else tensor).double()
    if pooling == "squares":
        values = values.square()
    combine = {"max": max}.get(pooling, float.__add__)
    down, _, across, wide = tensor.shape
    return [
        [
            tree([tree(values[d, :, a, w].tolist(), combine) for w in range(wide)], combine)
            for a in range(across)
        ]
        for d in range(down)
    ]


def make_score(kind, shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "wide":  # subnormals to inf
        x = torch.exp(x * 60) * x.sign()
    elif kind == "ties":
        x = x.round()  # with -0.0 among them
    elif kind == "bits":
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        info = torch.iinfo(integer)
        raw = torch.randint(info.min, info.max, shape, generator=generator, dtype=integer)
        return raw.view(dtype)
    return x.to(dtype)


@ANY
@given(
    SHAPES,
    st.sampled_from(POOLINGS),
    st.sampled_from(["normal", "wide", "ties", "bits"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_equals_the_reference_bit_for_bit(kernels, dtype, shape, pooling, kind, magnitude, seed):
    score = make_score(kind, shape, dtype, seed)
    if not score.numel():
        return  # the public function does not call the kernels
    found = kernels.pool_blocks(score, pooling, magnitude)
    expected = reference.pool_blocks(score, pooling, magnitude)
    assert found.dtype == torch.float64
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(nan=0.5), expected.nan_to_num(nan=0.5))


@ANY
@given(
    st.tuples(*[st.integers(1, 11)] * 4),
    st.sampled_from(POOLINGS),
    st.sampled_from(["normal", "ties"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_adds_neighbors_first(kernels, shape, pooling, kind, magnitude, seed):
    score = make_score(kind, shape, torch.float64, seed)
    assert kernels.pool_blocks(score, pooling, magnitude).tolist() == by_hand(
        score, pooling, magnitude
    )


@ANY
@given(SHAPES, st.sampled_from([0.0, 0.001, 0.2, 1.0]), st.integers(0, 999))
def test_masks(kernels, shape, density, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    if mask.numel():
        assert torch.equal(kernels.pool_blocks(mask), mask.any(3).any(1))


@ANY
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(0, 9),
    st.one_of(st.integers(0, 20), st.integers(60, 70), st.just(300)),
    st.integers(0, 999),
)
def test_expand(kernels, shape, high, wide, seed):
    chosen = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    expected = chosen[:, None, :, None].repeat(1, high, 1, wide)
    assert torch.equal(kernels.expand_blocks(chosen, high, wide), expected)


@pytest.mark.parametrize("shape", [(1, 700, 900, 1), (900, 1, 1, 700), (300, 4, 500, 1)])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_large_weights(kernels, shape, pooling):
    score = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = kernels.pool_blocks(score, pooling)
    assert torch.equal(found, reference.pool_blocks(score, pooling))
    values = score.abs().double().movedim(1, 2).flatten(2)
    expected = {"sum": values.sum(2), "squares": values.square().sum(2), "max": values.amax(2)}
    torch.testing.assert_close(found, expected[pooling])
    chosen = found > found.mean()
    expanded = chosen[:, None, :, None].expand(shape)
    assert torch.equal(kernels.expand_blocks(chosen, shape[1], shape[3]), expanded)
    mask = score > 3
    assert torch.equal(kernels.pool_blocks(mask), mask.any(3).any(1))


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("magnitude", [True, False])
def test_nan_stays_in_its_block(kernels, dtype, place, pooling, magnitude):
    for sign in (1, -1):
        score = torch.full((1, 3, 2, 3), -math.inf, dtype=dtype)
        score[0, place // 3, 1, place % 3] = math.copysign(math.nan, sign)
        found = kernels.pool_blocks(score, pooling, magnitude)
        assert found.isnan().tolist() == [[False, True]]


def test_opposite_infinities_are_nan(kernels):
    score = torch.tensor([math.inf, -math.inf]).reshape(1, 1, 1, 2)
    assert kernels.pool_blocks(score, "sum", False).isnan().all()
    assert kernels.pool_blocks(score, "sum", True).item() == math.inf
    assert kernels.pool_blocks(score, "max", False).item() == math.inf


def test_layouts_and_other_dtypes():
    score = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = public.pool_blocks(score)
    assert torch.equal(public.pool_blocks(score.mT.contiguous().mT), expected)
    assert torch.equal(public.pool_blocks(torch.nn.Parameter(score)), expected)
    whole = torch.randint(-9, 9, (4, 3, 6, 5))
    assert torch.equal(public.pool_blocks(whole), public.pool_blocks(whole.float()))
    chosen = torch.rand(6, 4) < 0.5
    assert torch.equal(public.expand_blocks(chosen.T, 2, 3)[:, 0, :, 0], chosen.T)


@pytest.mark.parametrize("shape", [(0, 2, 3, 2), (2, 0, 3, 2), (2, 2, 0, 2), (2, 2, 3, 0)])
def test_blocks_without_entries(shape):
    score = torch.ones(shape)
    assert public.pool_blocks(score).tolist() == [[0.0] * shape[2]] * shape[0]
    assert public.pool_blocks(score > 0).tolist() == [[False] * shape[2]] * shape[0]
    expanded = public.expand_blocks(torch.ones(shape[0], shape[2]) > 0, shape[1], shape[3])
    assert expanded.shape == shape


def test_rejects_wrong_arguments():
    score = torch.ones(2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"shape \[down, high, across, wide\]; got \(2, 2, 2\)$"):
        public.pool_blocks(score[0])
    with pytest.raises(ValueError, match=r"must be 'sum', 'squares' or 'max'; got 'mean'$"):
        public.pool_blocks(score, "mean")
    with pytest.raises(TypeError, match=r"^scores must be real numbers; got torch.complex64$"):
        public.pool_blocks(score.to(torch.complex64))
    with pytest.raises(TypeError, match=r"^mask must be bool; got torch.float32$"):
        public.expand_blocks(score[0, 0], 1, 1)
    with pytest.raises(ValueError, match=r"mask must have shape \[rows, n\]; got \(2,\)"):
        public.expand_blocks(score[0, 0, 0] > 0, 1, 1)


@pytest.mark.skipif(native.module() is None, reason="needs the native kernels")
def test_the_native_module_checks_shapes():
    module, isa = native.module(), native.isa()
    score, out = torch.ones(2, 3, 4, 5), torch.empty(2, 4, dtype=torch.float64)
    for bad in (torch.empty(2, 5, dtype=torch.float64), torch.empty(4, 2, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"^out must be \[down, across\]$"):
            module.pool_scores(score, "sum", True, bad, 1, isa)
    with pytest.raises(ValueError, match=r"^score is not a contiguous tensor"):
        module.pool_scores(score.mT, "sum", True, out, 1, isa)
    with pytest.raises(ValueError, match=r"^pooling must be sum, squares or max$"):
        module.pool_scores(score, "mean", True, out, 1, isa)
    with pytest.raises(ValueError, match=r"^score is not floating point$"):
        module.pool_scores(score.long(), "sum", True, out, 1, isa)
    with pytest.raises(ValueError, match=r"^blocks must have entries$"):
        module.pool_scores(score[:, :0], "sum", True, out, 1, isa)
    with pytest.raises(ValueError, match=r"^blocks must have entries$"):
        module.pool_mask(score[:, :0] > 0, out > 0, 1, isa)
    with pytest.raises(ValueError, match=r"^out must be \[down, across\]$"):
        module.pool_mask(score > 0, (out > 0).T.contiguous(), 1, isa)
    with pytest.raises(ValueError, match=r"^chosen must be \[down, across\]$"):
        module.expand_blocks((out > 0).T.contiguous(), score > 0, 1)
    with pytest.raises(TypeError):
        module.pool_scores(score, "sum", True, out.float(), 1, isa)
