"""Growth scores in blocks of rows give the same mask as the whole matrix, including ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.core.masks import drop_and_grow, make_mask_topk_sparsity
from sparsewright.errors import ScoreError
from sparsewright.structures import Groups


class Blocks:
    """A matrix in blocks of a few rows."""

    def __init__(self, whole, rows):
        self.whole, self.rows, self.shape = whole, rows, whole.shape

    def row_blocks(self):
        for start in range(0, self.shape[0], self.rows):
            yield start, self.whole[start : start + self.rows].clone()

    def dense(self):
        return torch.cat([block for _, block in self.row_blocks()])


@given(
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    st.integers(1, 50),
    st.integers(0, 999),
)
def test_blocks_equal_the_whole(rows, cols, block, level, values, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator)
    growth = torch.randint(-values, values + 1, (rows, cols), generator=generator).float()
    mask = make_mask_topk_sparsity(torch.rand(rows, cols, generator=generator), level)
    whole = drop_and_grow(weight * mask, mask, level, 0.4, growth)
    assert torch.equal(drop_and_grow(weight * mask, mask, level, 0.4, Blocks(growth, block)), whole)


def test_blocks_equal_the_whole_in_groups():
    weight, growth = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    for groups in (Groups(inputs=2), Groups(outputs=3)):
        mask = groups.topk(weight, 0.5)
        whole = drop_and_grow(weight, mask, 0.5, 0.4, growth, groups)
        assert torch.equal(drop_and_grow(weight, mask, 0.5, 0.4, Blocks(growth, 4), groups), whole)
        assert not torch.equal(whole, mask)


def test_nan_in_a_block_raises():
    growth = torch.ones(6, 4)
    growth[5, 1] = torch.nan
    with pytest.raises(ScoreError, match="dense gradient"):
        drop_and_grow(torch.ones(6, 4), torch.ones(6, 4) > 0, 0.5, 0.3, Blocks(growth, 2))
