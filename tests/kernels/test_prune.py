import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright import kernels as public
from sparsewright.kernels import native

INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    return tensor.detach().view(INTEGER[tensor.element_size()]).clone()


def random_bits(n, dtype, seed):
    """Return random bit patterns, including NaNs of all kinds, infs, -0.0 and subnormals."""
    generator = torch.Generator().manual_seed(seed)
    integer = INTEGER[torch.empty(0, dtype=dtype).element_size()]
    info = torch.iinfo(integer)
    raw = torch.randint(info.min, info.max, (n,), generator=generator, dtype=integer)
    x = raw.view(dtype)
    for i, value in enumerate([float("nan"), float("inf"), -float("inf"), -0.0]):
        x[i::7] = value
    return x


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    n=st.integers(0, 700),
    offset=st.integers(0, 70),
    seed=st.integers(0, 99),
    density=st.floats(0, 1),
)
def test_keeps_bits_and_zeroes_the_rest(kernels, dtype, n, offset, seed, density):
    whole = random_bits(n + offset, dtype, seed)
    x = whole[offset:]  # not aligned to anything
    mask = (torch.rand(n + offset, generator=torch.Generator().manual_seed(seed)) < density)[
        offset:
    ]
    before, head = bits(x), bits(whole[:offset])
    kernels.prune_(x, mask)
    assert torch.equal(bits(x), torch.where(mask, before, 0))
    assert torch.equal(bits(whole[:offset]), head)


@pytest.mark.parametrize("level", [0, 1])
def test_levels_zero_and_one(kernels, dtype, level):
    x = random_bits(1000, dtype, 0)
    before = bits(x)
    kernels.prune_(x, torch.full((1000,), level == 0))
    assert torch.equal(bits(x), before if level == 0 else torch.zeros_like(before))


def test_large_tensor_on_two_threads(kernels, dtype):
    x = random_bits(1_500_001, dtype, 3)
    mask = torch.rand(x.shape) < 0.3
    before = bits(x)
    kernels.prune_(x, mask)
    assert torch.equal(bits(x), torch.where(mask, before, 0))


def many(dtypes):
    tensors = [random_bits(1 + 70_001 * (i % 4), dtypes[i % len(dtypes)], i) for i in range(12)]
    return tensors, [torch.rand(t.shape) < 0.5 for t in tensors]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_list_of_mixed_widths(threads):
    tensors, masks = many([torch.float32, torch.bfloat16, torch.float64, torch.float16])
    before = [bits(t) for t in tensors]
    public.prune_many_(tensors, masks, threads=threads)
    for t, mask, old in zip(tensors, masks, before, strict=False):
        assert torch.equal(bits(t), torch.where(mask, old, 0))


def test_list_with_members_the_kernel_does_not_take():
    tensors, masks = many([torch.float32])
    tensors += [torch.ones(4, 6).t(), torch.arange(8), torch.ones(3, 3)[:, ::2]]
    masks += [torch.rand(6, 4) < 0.5, torch.rand(8) < 0.5, torch.rand(3, 2) < 0.5]
    expected = [
        torch.where(m, t, torch.zeros_like(t)) for t, m in zip(tensors, masks, strict=False)
    ]
    public.prune_many_(tensors, masks)
    for t, want in zip(tensors, expected, strict=False):
        assert torch.equal(t.nan_to_num(), want.nan_to_num())


@pytest.mark.parametrize(
    "make",
    [
        lambda: (torch.randn(6, 8).t(), torch.rand(8, 6) < 0.5),  # orders differ
        lambda: (torch.randn(6, 8).t(), (torch.rand(6, 8) < 0.5).t()),  # same dense order
        lambda: (torch.randn(6, 8)[:, ::2], (torch.rand(6, 8) < 0.5)[:, ::2]),  # gaps
        lambda: (torch.randn(6, 8)[:, 1:4], torch.rand(6, 3) < 0.5),
        lambda: (
            torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            (torch.rand(2, 3, 4, 5) < 0.5).to(memory_format=torch.channels_last),
        ),
        lambda: (torch.randn(4), (torch.rand(1) < 2).expand(4)),  # overlapping mask
        lambda: (torch.tensor(3.0), torch.tensor(False)),
        lambda: (torch.randn(5, 0), torch.ones(5, 0, dtype=torch.bool)),
        lambda: (torch.complex(torch.randn(5), torch.randn(5)), torch.rand(5) < 0.5),
    ],
)
def test_any_layout(make):
    x, mask = make()
    expected = torch.where(mask, x, torch.zeros_like(x))
    assert public.prune_(x, mask) is x
    assert torch.equal(x, expected)


def test_layout_check_is_strict():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    if native.info()["active"] == "reference":
        assert native.prune_(torch.ones(8, 8), mask)
        return
    for tensor, keep in ((torch.ones(8, 8), mask), (torch.ones(8, 8).t(), mask.t())):
        assert native.prune_(tensor, keep) == ""
        assert not tensor.any()
    refused = {
        "order": (torch.ones(8, 8).t(), mask),
        "dense": (torch.ones(8, 16)[:, ::2], torch.zeros(8, 16, dtype=torch.bool)[:, ::2]),
        "block": (torch.ones(1, 8).expand(8, 8), mask[:1].expand(8, 8)),
        "dtypes": (torch.ones(8, 8), mask.to(torch.uint8)),
        "shape": (torch.ones(8, 7), mask),
        "dtype": (torch.ones(8, 8, dtype=torch.int32), mask),
        "CPU": (torch.ones(8, 8, device="meta"), mask),
        "sparse": (torch.ones(8, 8).to_sparse(), mask),
        "subclass": (torch.ones(8, 8).as_subclass(Subclass), mask),
        "8 dimensions": (torch.ones([1] * 9), mask[:1, :1].reshape([1] * 9)),
    }
    for reason, (tensor, keep) in refused.items():
        assert reason in native.prune_(tensor, keep)
        assert tensor.is_meta or bool((tensor.to_dense() == 1).all())
    fine = (torch.ones(8, 8), mask)
    tensors, masks = zip(fine, *refused.values(), fine, strict=True)
    found = native.prune_many_(tensors, masks)
    assert list(found) == list(range(1, len(refused) + 1))
    assert all(reason in why for reason, why in zip(refused, found.values(), strict=True))
    assert bool(fine[0].all())


class Subclass(torch.Tensor):
    """A tensor subclass, which the kernels must not read."""


def test_rejects_what_is_not_a_mask():
    with pytest.raises(TypeError, match=r"mask must be bool; got torch.float32"):
        public.prune_(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"mask must have the tensor's shape \(3,\); got \(1,\)"):
        public.prune_(torch.ones(3), torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="one mask per tensor; got 2 tensors and 1 masks"):
        public.prune_many_([torch.ones(1)] * 2, [torch.ones(1, dtype=torch.bool)])
    first = torch.ones(3)
    with pytest.raises(ValueError, match="shape"):
        public.prune_many_(
            [first, torch.ones(3)], [torch.zeros(3, dtype=torch.bool), torch.ones(2).bool()]
        )
    assert torch.equal(first, torch.ones(3))


def test_autograd_sees_the_change():
    weight = torch.nn.Parameter(torch.ones(4))
    loss = (weight * weight).sum()
    public.prune_(weight, torch.tensor([True, False, True, False]))
    assert weight.requires_grad
    assert weight.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensor():
    mask = torch.tensor([True, False, True, False])
    with torch.inference_mode():
        x, others = torch.ones(4), [torch.ones(4), torch.ones(4)]
        public.prune_(x, mask)
        public.prune_many_(others, [mask, mask])
    assert [t.tolist() for t in (x, *others)] == [[1, 0, 1, 0]] * 3
    for prune in (public.prune_, lambda tensor, mask: public.prune_many_([tensor], [mask])):
        with pytest.raises(RuntimeError, match="inference tensor"):
            prune(x, ~mask)
