import pytest
import torch

from sparsewright import kernels as public


@pytest.mark.parametrize(
    "shape",
    [(0, 3), (3, 0), (1, 1), (5, 63), (4, 64), (3, 1001), (2, 1_500_000), (1_200_000, 4)]
    + [(40, n) for n in (1, 2, 5, 7, 8, 9, 16, 33)],
)
def test_count_rows(kernels, shape):
    mask = torch.rand(shape) < 0.3
    assert torch.equal(kernels.count_rows(mask), mask.long().sum(1))


@pytest.mark.parametrize("shape", [(0,), (1,), (63,), (64,), (7, 11), (2, 1_500_001)])
def test_count_changes(kernels, shape):
    old, new = torch.rand(shape) < 0.3, torch.rand(shape) < 0.3
    expected = int((old & ~new).sum()), int((new & ~old).sum())
    assert kernels.count_changes(old, new) == expected


def test_layouts():
    old, new = torch.rand(30, 50) < 0.3, torch.rand(30, 50) < 0.3
    expected = public.count_changes(old, new)
    assert public.count_changes(old.t(), new.t()) == expected
    assert public.count_changes(old.t().contiguous().t(), new) == expected
    assert public.count_changes(old[:, ::2], old[:, ::2]) == (0, 0)
    assert torch.equal(public.count_rows(old.t()), old.long().sum(0))


def test_any_nonzero_byte_is_true(kernels):
    mask = torch.tensor([[0, 1, 2, 255] * 20], dtype=torch.uint8).view(torch.bool)
    if kernels.isa is None:
        return  # plain torch does not define the results for such masks
    assert kernels.count_rows(mask).tolist() == [60]
    x = torch.ones(1, 80)
    kernels.prune_(x, mask)
    assert int(x.sum()) == 60


def test_rejects_wrong_arguments():
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(TypeError):
        public.count_rows(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"mask must have shape \[rows, n\]; got \(2,\)"):
        public.count_rows(mask[0])
    with pytest.raises(TypeError):
        public.count_changes(mask, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"the tensor's shape \(2, 2\); got \(2,\)"):
        public.count_changes(mask, mask[0])
