"""`kernels.select` against its slow twin, and against sorting in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright import kernels
from sparsewright.kernels import reference
from twins import DTYPES, as_mask, best, masks, scores


@st.composite
def selections(draw):
    shape = draw(st.tuples(st.integers(0, 6), st.integers(0, 12)))
    score = draw(scores(shape))
    num = draw(st.lists(st.integers(0, 14), min_size=shape[0], max_size=shape[0]))
    among = draw(st.none() | masks(shape))
    return score, num, among


@given(selections())
def test_both_twins_agree_with_sorting_in_python(selection):
    score, num, among = selection
    rows, n = score.shape
    expected = set()
    for row in range(rows):
        values = score[row].tolist()
        candidates = [i for i in range(n) if among is None or bool(among[row, i])]
        expected |= {row * n + i for i in best(values, candidates, num[row])}
    wanted = as_mask((rows, n), expected)
    assert torch.equal(reference.select(score, num, among), wanted)
    assert torch.equal(kernels.select(score, num, among), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 700])
def test_twins_agree_on_long_and_on_many_rows(dtype, rows):
    score = torch.randn(rows, 500).to(dtype)
    num = torch.randint(0, 501, (rows,)).tolist()
    assert torch.equal(kernels.select(score, num), reference.select(score, num))
    among = torch.rand(rows, 500) < 0.3
    assert torch.equal(kernels.select(score, num, among), reference.select(score, num, among))


def test_twins_agree_when_most_of_a_row_is_its_minimum():
    score = torch.randn(1, 5000).abs()
    score[torch.rand(1, 5000) < 0.9] = 0
    for num in (1, 300, 499, 500, 501, 2000, 4999, 5000):
        assert torch.equal(kernels.select(score, [num]), reference.select(score, [num])), num


def test_of_equal_scores_the_lower_index_is_marked():
    mask = kernels.select(torch.ones(2, 5), [2, 4])
    assert mask.tolist() == [[True, True, False, False, False], [True] * 4 + [False]]


def test_negative_zero_ties_with_zero():
    mask = kernels.select(torch.tensor([[-0.0, 0.0, -0.0]]), [2])
    assert mask.tolist() == [[True, True, False]]


def test_a_candidate_at_minus_infinity_beats_what_is_no_candidate():
    score = torch.tensor([[-math.inf, 5.0, -math.inf]])
    among = torch.tensor([[True, False, True]])
    assert kernels.select(score, [2], among).tolist() == [[True, False, True]]


def test_nan_that_is_no_candidate_does_not_matter():
    score = torch.tensor([[math.nan, 1.0, 2.0]])
    among = torch.tensor([[False, True, True]])
    assert kernels.select(score, [1], among).tolist() == [[False, False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neighbours_are_told_apart(dtype):
    low = torch.tensor(1.0, dtype=dtype)
    high = torch.nextafter(low, torch.tensor(2.0, dtype=dtype))
    assert kernels.select(torch.stack([low, high, low])[None], [1]).tolist() == [
        [False, True, False]
    ]


def test_arguments_are_not_changed():
    score, among = torch.randn(3, 7), torch.rand(3, 7) < 0.5
    before = score.clone(), among.clone()
    kernels.select(score, [2, 3, 4], among)
    assert torch.equal(score, before[0])
    assert torch.equal(among, before[1])


def test_scores_need_not_be_contiguous_nor_without_gradient():
    score = torch.randn(6, 4, requires_grad=True).T
    assert torch.equal(kernels.select(score, [3] * 4), reference.select(score, [3] * 4))
