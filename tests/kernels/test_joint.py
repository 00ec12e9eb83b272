"""Joint selection; `tests/distributions` has brute-force tests, `tests/distributed` the shards."""

import pytest
import torch

from sparsewright.kernels import NanError
from sparsewright.kernels.joint import count_largest


def test_candidates():
    tensors = [torch.tensor([[3.0, -1.0]]), torch.tensor([-2.0, 5.0])]
    among = [torch.tensor([[True, True]]), torch.tensor([True, False])]
    assert count_largest(tensors, 2) == [1, 1]
    assert count_largest(tensors, 2, among) == [2, 0]
    assert count_largest(tensors, 3) == [2, 1]
    assert count_largest(tensors, 9) == [2, 2]
    assert count_largest(tensors, 9, among) == [2, 1]
    assert count_largest(tensors, 0, among) == [0, 0]
    assert count_largest([], 3) == []


def test_nan_counts_among_the_candidates_only():
    tensors = [torch.tensor([torch.nan, 1.0]), torch.tensor([2.0])]
    with pytest.raises(NanError):
        count_largest(tensors, 1)
    among = [torch.tensor([False, True]), torch.tensor([True])]
    assert count_largest(tensors, 1, among) == [0, 1]
