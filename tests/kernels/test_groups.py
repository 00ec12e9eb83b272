"""Selection in groups of neighbors: the native kernels compared with plain torch."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright import kernels as public
from sparsewright.kernels import native, reference

ANY = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ["normal", "ties", "zeros", "wide", "bits"]


def make_score(kind, shape, dtype, generator):
    x = torch.randn(shape, generator=generator)
    if kind == "ties":
        x = x.mul(2).round()  # with -0.0 among them
    elif kind == "zeros":
        x[torch.rand(shape, generator=generator) < 0.8] = -0.0
    elif kind == "wide":  # subnormals to inf
        x = torch.exp(x * 60) * x.sign()
    elif kind == "bits":
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.to(dtype).element_size()]
        info = torch.iinfo(integer)
        raw = torch.randint(info.min, info.max, shape, generator=generator, dtype=integer)
        return raw.view(dtype).nan_to_num(posinf=math.inf, neginf=-math.inf)
    return x.to(dtype)


@st.composite
def weights(draw, m):
    """Draw a shape that m divides in dimension `dim`, and a way to lay it out in memory."""
    dim = draw(st.integers(0, 1))
    shape = [draw(st.integers(0, 9)), draw(st.integers(0, 9))]
    shape[dim] = m * draw(st.integers(0, 80 // m + 1))
    shape += draw(st.lists(st.integers(0, 5), max_size=3))
    if draw(st.booleans()):  # enough groups to fill a strip of lanes
        shape[1 - dim] = draw(st.integers(60, 140))
    return tuple(shape), dim


def make_case(kind, shape, dtype, density, is_strided, seed):
    """Return scores and a mask, contiguous or with reversed dimensions."""
    generator = torch.Generator().manual_seed(seed)
    score = make_score(kind, shape, dtype, generator)
    mask = torch.rand(shape, generator=generator) < density
    if is_strided:
        turned = list(reversed(range(len(shape))))
        score = score.permute(turned).contiguous().permute(turned)
        mask = mask.permute(turned).contiguous().permute(turned)
    return score, mask


def masks_of(role, mask):
    return {"all": (None, None), "among": (mask, None), "kept": (None, mask)}[role]


role_of_mask = st.sampled_from(["all", "among", "kept"])


@ANY
@given(
    data=st.data(),
    m=st.one_of(st.sampled_from([2, 4, 8, 16, 32]), st.integers(1, 32)),
    kind=st.sampled_from(KINDS),
    role=role_of_mask,
    density=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    is_strided=st.booleans(),
    magnitude=st.booleans(),
    seed=st.integers(0, 999),
)
def test_n_m_equals_the_reference(
    kernels, dtype, data, m, kind, role, density, is_strided, magnitude, seed
):
    shape, dim = data.draw(weights(m))
    n = data.draw(st.integers(1, m))
    score, mask = make_case(kind, shape, dtype, density, is_strided, seed)
    arguments = (score, n, m, dim, *masks_of(role, mask), magnitude)
    found = kernels.select_n_m(*arguments)
    assert torch.equal(found, reference.select_n_m(*arguments))
    assert found.is_contiguous()


@ANY
@given(
    sides=st.tuples(st.integers(0, 9), st.integers(0, 40)),
    kernel=st.lists(st.integers(0, 3), max_size=3),
    n=st.integers(1, 4),
    kind=st.sampled_from(KINDS),
    role=role_of_mask,
    density=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    is_strided=st.booleans(),
    magnitude=st.booleans(),
    seed=st.integers(0, 999),
)
def test_tiles_equal_the_reference(
    kernels, dtype, sides, kernel, n, kind, role, density, is_strided, magnitude, seed
):
    shape = (4 * sides[0], 4 * sides[1], *kernel)
    score, mask = make_case(kind, shape, dtype, density, is_strided, seed)
    arguments = (score, n, *masks_of(role, mask), magnitude)
    found = kernels.select_tiles(*arguments)
    assert torch.equal(found, reference.select_tiles(*arguments))
    assert found.is_contiguous()


@pytest.mark.parametrize("shape", [(512, 1024), (64, 128, 3, 3)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_many_tiles(kernels, dtype, shape, n):
    """Use enough tiles that threads share them."""
    score, mask = make_case("ties", shape, dtype, 0.3, False, n)
    for role in ("all", "among", "kept"):
        arguments = (score, n, *masks_of(role, mask))
        assert torch.equal(kernels.select_tiles(*arguments), reference.select_tiles(*arguments))


@pytest.mark.parametrize("m", [3, 4, 8, 32])
@pytest.mark.parametrize(("shape", "dim"), [((768, 768), 1), ((96, 96, 5, 5), 1), ((96, 2304), 0)])
def test_many_groups(kernels, dtype, shape, dim, m):
    score, mask = make_case("ties", shape, dtype, 0.3, False, m)
    for role in ("all", "among", "kept"):
        arguments = (score, (m + 1) // 2, m, dim, *masks_of(role, mask))
        assert torch.equal(kernels.select_n_m(*arguments), reference.select_n_m(*arguments))


@pytest.mark.parametrize("shape", [(4, 4), (8, 132), (8, 256, 3)])
@pytest.mark.parametrize("at", [0, -1])
def test_nan_among_the_candidates_is_an_error(kernels, dtype, shape, at):
    score = torch.ones(shape, dtype=dtype)
    score.view(-1)[at] = math.copysign(math.nan, -1)
    is_nan = score.isnan()
    for select in (
        lambda *masks: kernels.select_n_m(score, 2, 4, 1, *masks),
        lambda *masks: kernels.select_tiles(score, 2, *masks),
    ):
        for masks in ((None, None), (is_nan, None), (None, ~is_nan)):
            with pytest.raises(reference.NanError, match="NaN among the candidates"):
                select(*masks)
        assert not (select(~is_nan, None) & is_nan).any()
        assert select(None, is_nan)[is_nan].all()


def test_larger_groups_are_selected_as_rows():
    score = torch.randn(3, 80, 2, generator=torch.Generator().manual_seed(0))
    before = public.info()["fallbacks"].get("select_n_m: m is larger than 32", 0)
    found = public.select_n_m(score, 7, 40, 1)
    if public.info()["active"] == "native":
        assert public.info()["fallbacks"]["select_n_m: m is larger than 32"] == before + 1
    assert torch.equal(found, reference.select_n_m(score, 7, 40, 1))
    assert (found.unflatten(1, (2, 40)).sum(2) == 7).all()


def test_rejects_wrong_arguments():
    score, mask = torch.ones(4, 8), torch.ones(4, 8, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"score must be float16, .* or float64; got torch.int32"):
        public.select_n_m(score.int(), 2, 4, 1)
    with pytest.raises(TypeError, match=r"mask must be bool; got torch.float32"):
        public.select_tiles(score, 2, score)
    with pytest.raises(ValueError, match=r"the tensor's shape \(4, 8\); got \(8, 4\)"):
        public.select_n_m(score, 2, 4, 1, mask.T)
    with pytest.raises(ValueError, match=r"^expected `among` or `kept`, not both$"):
        public.select_tiles(score, 2, mask, mask)
    for n in (0, 5):
        with pytest.raises(ValueError, match=rf"^n must be between 1 and m = 4; got {n}$"):
            public.select_tiles(score, n)
    for dim in (-1, 0, 2):
        with pytest.raises(ValueError, match=rf"dimension {dim} that 8 divides; got \(4, 8\)$"):
            public.select_n_m(score, 2, 8, dim)
    with pytest.raises(ValueError, match=r"dimension 1 that 4 divides; got \(4, 6\)$"):
        public.select_tiles(torch.ones(4, 6), 2)


@pytest.mark.skipif(native.module() is None, reason="native kernels are not active")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 33}, "n must be 1..m, and m at most 32"),
        ({"n": 5}, "n must be 1..m"),
        ({"dim": 2}, "score has no such dimension"),
        ({"m": 5}, "m must divide the dimension"),
        ({"out": torch.empty(4, 4, dtype=torch.bool)}, "out must be bool, contiguous"),
        ({"out": torch.empty(4, 8)}, "out must be bool"),
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, "mask must be None, or be like out"),
        ({"fill": True}, "mask must be None, or be like out"),
        ({"score": torch.ones(8, 4).T}, "score must be contiguous"),
        ({"score": torch.ones(4, 8, dtype=torch.int32)}, "score is not floating point"),
    ],
)
def test_the_native_kernel_checks_what_it_reads(change, message):
    given = {"score": torch.ones(4, 8), "n": 2, "m": 4, "dim": 1, "mask": None, "fill": False}
    given |= {"out": torch.empty(4, 8, dtype=torch.bool), "magnitude": True}
    given |= {"threads": 1, "isa": native.isa()} | change
    with pytest.raises(ValueError, match=message):
        native.module().select_n_m(**given)
