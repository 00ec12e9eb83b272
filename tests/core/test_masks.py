"""Mask functions, compared with brute force in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.twins import (
    LEVELS,
    as_mask,
    best,
    contests,
    kept_exactly,
    kept_in_decimal,
    levels,
    masks,
    rows_of,
    scores,
)
from sparsewright.core.counts import as_decimal, num_kept, num_kept_each
from sparsewright.core.masks import drop_and_grow
from sparsewright.errors import LevelError, OptionTypeError, ScoreError, ShapeError
from sparsewright.utils import (
    InputGroupScoreShaper,
    OutputGroupScoreShaper,
    make_mask_drop_minimum,
    make_mask_grow_maximum,
    make_mask_topk_sparsity,
)


def shaper_of(dim, groups):
    return {None: lambda _: None, 0: OutputGroupScoreShaper, 1: InputGroupScoreShaper}[dim](groups)


@given(levels, st.integers(0, 10**10))
def test_num_kept_is_the_exact_decimal_product(level, n):
    assert num_kept(level, n) == kept_exactly(level, n) == kept_in_decimal(level, n)


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_num_kept_of_any_float(level, n):
    assert num_kept(level, n) == kept_exactly(level, n)


@given(levels, st.integers(0, 10**9))
def test_num_kept_means_the_same_in_every_type(level, n):
    expected = num_kept(level, n)
    for dtype in (torch.float32, torch.float64):
        assert num_kept(torch.tensor(level, dtype=dtype), n) == expected
    assert num_kept(np.float32(level), n) == num_kept(np.float64(level), n) == expected


@given(levels, st.lists(st.integers(0, 6), max_size=20))
def test_num_kept_of_many_counts(level, counts):
    kept = num_kept_each(level, torch.tensor(counts, dtype=torch.int64), 6)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [kept_exactly(level, count) for count in counts]


@pytest.mark.parametrize(
    ("level", "n", "kept"), [(0, 7, 7), (1, 7, 0), (0.9, 100, 10), (0.5, 1, 0)]
)
def test_num_kept_at_the_ends(level, n, kept):
    assert num_kept(level, n) == kept


@pytest.mark.parametrize("level", [-0.1, 1.0000001, math.nan, math.inf, torch.tensor(2.0)])
def test_levels_out_of_range_raise(level):
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got "):
        num_kept(level, 10)


@pytest.mark.parametrize("level", ["0.5", None, True, torch.zeros(2), torch.tensor(True)])
def test_levels_of_the_wrong_type_raise(level):
    with pytest.raises(OptionTypeError, match=r"^sparsity must be a number or a 0-d tensor; got "):
        as_decimal(level)


@given(st.data(), contests(), levels)
def test_topk(data, contest, level):
    shape, dim, groups = contest
    score = data.draw(scores(shape))
    flat = score.flatten().tolist()
    chosen = set()
    for row in rows_of(shape, dim, groups):
        chosen |= best(flat, row, kept_exactly(level, len(row)))
    mask = make_mask_topk_sparsity(score, level, shaper_of(dim, groups))
    assert torch.equal(mask, as_mask(shape, chosen))


@given(st.data(), contests(), levels)
def test_drop_minimum(data, contest, fraction):
    shape, dim, groups = contest
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    flat, live = score.flatten().tolist(), mask.flatten().tolist()
    chosen, counts = set(), []
    for row in rows_of(shape, dim, groups):
        candidates = [index for index in row if live[index]]
        counts.append(kept_exactly(fraction, len(candidates)))
        chosen |= best(flat, candidates, counts[-1])
    kept, per_row = make_mask_drop_minimum(score, mask, fraction, shaper_of(dim, groups))
    assert torch.equal(kept, as_mask(shape, chosen))
    assert per_row.tolist() == counts
    assert per_row.dtype == torch.int64
    assert not (kept & ~mask).any()


@given(st.data(), contests(), levels, st.booleans())
def test_grow_maximum(data, contest, level, give_counts):
    shape, dim, groups = contest
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    flat, live = score.flatten().tolist(), mask.flatten().tolist()
    chosen, counts = {index for index, alive in enumerate(live) if alive}, []
    for row in rows_of(shape, dim, groups):
        candidates = [index for index in row if not live[index]]
        counts.append(len(row) - len(candidates))
        chosen |= best(flat, candidates, kept_exactly(level, len(row)) - counts[-1])
    mask_nonzero = torch.tensor(counts) if give_counts else None
    grown = make_mask_grow_maximum(score, mask, level, mask_nonzero, shaper_of(dim, groups))
    assert torch.equal(grown, as_mask(shape, chosen))
    assert not (mask & ~grown).any()


@given(st.data(), contests(), levels, levels)
def test_drop_and_grow(data, contest, level, fraction):
    shape, dim, groups = contest
    weight, mask = data.draw(scores(shape)), data.draw(masks(shape))
    growth = data.draw(scores(shape))
    magnitudes = weight.abs().flatten().tolist()
    flat, live = growth.abs().flatten().tolist(), mask.flatten().tolist()
    chosen = set()
    for row in rows_of(shape, dim, groups):
        target = kept_exactly(level, len(row))
        candidates = [index for index in row if live[index]]
        stay = best(magnitudes, candidates, min(kept_exactly(fraction, len(candidates)), target))
        free = [index for index in row if index not in stay]
        chosen |= stay | best(flat, free, target - len(stay))
    new = drop_and_grow(weight, mask, level, fraction, growth, shaper_of(dim, groups))
    assert torch.equal(new, as_mask(shape, chosen))


def test_complex_weights_are_ranked_by_magnitude():
    generator = torch.Generator().manual_seed(0)
    weight, score = torch.randn(2, 6, 10, dtype=torch.complex64, generator=generator)
    mask = torch.rand(6, 10, generator=generator) < 0.4
    new = drop_and_grow(weight, mask, 0.7, 0.5, score)
    assert torch.equal(new, drop_and_grow(weight.abs(), mask, 0.7, 0.5, score.abs()))
    assert not torch.equal(new, drop_and_grow(weight.real, mask, 0.7, 0.5, score.real))


@given(st.data(), contests(), st.sampled_from(LEVELS))
def test_nan_among_the_candidates_raises_and_elsewhere_does_not_matter(data, contest, level):
    shape, dim, groups = contest
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    if score.numel() == 0:
        return
    position = data.draw(st.integers(0, score.numel() - 1))
    score.view(-1)[position] = math.nan
    shaper = shaper_of(dim, groups)
    with pytest.raises(ScoreError, match=r"NaN"):
        make_mask_topk_sparsity(score, level, shaper)
    if mask.view(-1)[position]:
        with pytest.raises(ScoreError):
            make_mask_drop_minimum(score, mask, level, shaper)
        grown = make_mask_grow_maximum(score, mask, level, None, shaper)
        assert grown.view(-1)[position]
    else:
        with pytest.raises(ScoreError):
            make_mask_grow_maximum(score, mask, level, None, shaper)
        kept, _ = make_mask_drop_minimum(score, mask, level, shaper)
        assert not kept.view(-1)[position]


def test_a_pruned_position_never_wins_a_drop_whatever_its_score():
    """FIX: live scores can be negative, or below the scores of pruned positions."""
    score = torch.tensor([-5.0, 0.0, -4.0, 9.0])
    mask = torch.tensor([True, False, True, False])
    kept, count = make_mask_drop_minimum(score, mask, 0.5)
    assert kept.tolist() == [False, False, True, False]
    assert count.tolist() == [1]


def test_growing_with_groups_counts_each_row():
    """FIX: without `mask_nonzero`, each row is filled to its own target."""
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    grown = make_mask_grow_maximum(torch.ones(2, 4), mask, 0.5, None, OutputGroupScoreShaper(2))
    assert grown.tolist() == [[True, True, False, False], [True, True, False, False]]


def test_one_count_may_stand_for_all_rows():
    mask = torch.eye(2, 4, dtype=torch.bool)
    grown = make_mask_grow_maximum(torch.ones(2, 4), mask, 0.25, 1, OutputGroupScoreShaper(2))
    assert grown.sum(dim=1).tolist() == [3, 3]


def test_a_mask_of_another_shape_raises():
    with pytest.raises(ShapeError, match=r"a mask of shape \(3,\): the score has shape \(2, 2\)"):
        make_mask_drop_minimum(torch.ones(2, 2), torch.ones(3, dtype=torch.bool), 0.5)
