"""`kernels.prune_` against its slow twin."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright import kernels
from sparsewright.kernels import reference
from twins import DTYPES, masks, scores


@given(st.data())
def test_twins_agree_with_python(data):
    shape = data.draw(st.sampled_from([(0,), (1,), (7,), (2, 3), (3, 0), (2, 2, 2)]))
    tensor, mask = data.draw(scores(shape)), data.draw(masks(shape))
    flat, keep = tensor.flatten().tolist(), mask.flatten().tolist()
    wanted = [value if kept else 0.0 for value, kept in zip(flat, keep, strict=True)]
    for prune_ in (kernels.prune_, reference.prune_):
        pruned = tensor.clone()
        prune_(pruned, mask)
        assert pruned.flatten().tolist() == wanted


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_vanish_where_pruned_and_stay_where_kept(dtype):
    tensor = torch.tensor([math.nan, math.inf, -math.inf, math.nan, math.inf], dtype=dtype)
    kernels.prune_(tensor, torch.tensor([False, False, False, True, True]))
    assert tensor[:3].tolist() == [0, 0, 0]
    assert math.isnan(tensor[3])
    assert tensor[4] == math.inf


def test_views_are_pruned_in_place():
    whole = torch.ones(4, 6)
    kernels.prune_(whole.T, torch.zeros(6, 4, dtype=torch.bool))
    assert not whole.any()


def test_kept_entries_keep_their_bits():
    tensor = torch.tensor([-0.0, 1e-45, -3.0])
    kernels.prune_(tensor, torch.tensor([True, True, True]))
    assert torch.signbit(tensor).tolist() == [True, False, True]
    assert tensor[1] == 1e-45
