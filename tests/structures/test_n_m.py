"""N:M compared with plain Python, at its level `1 - n/m` and below it."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.twins import as_mask, best, kept_exactly, levels, masks, scores
from sparsewright import init
from sparsewright.core.counts import num_kept
from sparsewright.errors import (
    LevelError,
    OptionError,
    OptionTypeError,
    ScoreError,
    ShapeError,
)
from sparsewright.structures import NM, Unstructured
from sparsewright.utils import make_mask_topk_sparsity


def groups_of(shape, m):
    """Return flat indices of m input channels, for each output channel and kernel position."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    positions = math.prod(shape[2:])
    return [
        [int(channel.reshape(-1)[position]) for channel in group]
        for out in index
        for position in range(positions)
        for group in zip(*[iter(out)] * m, strict=True)
    ]


@st.composite
def weights(draw):
    """Draw a shape, n, and an m that divides the input dimension."""
    m = draw(st.integers(1, 6))
    shape = [draw(st.integers(0, 4)), m * draw(st.integers(1, 3))]
    shape += draw(st.lists(st.integers(1, 3), max_size=2))
    return tuple(shape), draw(st.integers(1, m)), m


@st.composite
def weights_and_levels(draw):
    """Draw a shape, n, m, a level at or below `1 - n/m`, and the number of entries to keep."""
    shape, n, m = draw(weights())
    own = (m - n) / m
    below = draw(levels.map(lambda level: round(level * own, 3)))
    level = draw(st.sampled_from([own, below if below <= own else own]))
    target = math.prod(shape) // m * n if level == own else kept_exactly(level, math.prod(shape))
    return shape, n, m, level, target


def winners(flat, candidates, shape, n, m, kept=frozenset()):
    """Return the best entries of each group; with those already kept, they are at most n."""
    chosen = set()
    for group in groups_of(shape, m):
        free = [index for index in group if index in candidates and index not in kept]
        chosen |= best(flat, free, n - len(kept.intersection(group)))
    return chosen


def ranked(flat, first, candidates, num):
    """Return the `num` best candidates; those in `first` come before all others."""
    chosen = best(flat, sorted(first), num)
    return chosen | best(flat, sorted(candidates - first), num - len(chosen))


def grown(flat, mask, shape, n, m, level, target):
    """Fill a mask with the N:M winners, and then with the best of the others."""
    free = set(range(math.prod(shape))) - mask
    first = winners(flat, free, shape, n, m, frozenset(mask))
    at_most = len(first) if level == (m - n) / m else max(target - len(mask), 0)
    return mask | ranked(flat, first, free, at_most)


@given(weights())
def test_rows_are_neighbouring_inputs(weight):
    shape, n, m = weight
    flat = torch.arange(math.prod(shape)).reshape(shape)
    rows, back = NM(n, m)(flat)
    assert rows.tolist() == groups_of(shape, m)
    assert tuple(rows.shape) == NM(n, m).rows(flat.shape)
    assert torch.equal(back(rows), flat)
    assert back(rows).is_contiguous()


@given(st.data(), weights_and_levels(), st.booleans())
def test_topk(data, case, magnitude):
    shape, n, m, level, target = case
    score = data.draw(scores(shape))
    flat = (score.abs() if magnitude else score).flatten().tolist()
    chosen = grown(flat, set(), shape, n, m, level, target)
    mask = make_mask_topk_sparsity(score, level, NM(n, m), magnitude=magnitude)
    assert torch.equal(mask, as_mask(shape, chosen))
    assert int(mask.sum()) == target == NM(n, m).num_kept(score.shape, level)


@given(st.data(), weights(), levels)
def test_a_fraction_of_the_whole_weight_is_dropped(data, weight, fraction):
    shape, n, m = weight
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    live = [index for index, alive in enumerate(mask.flatten().tolist()) if alive]
    chosen = best(score.flatten().tolist(), live, kept_exactly(fraction, len(live)))
    new, counts = NM(n, m).drop(score, mask, fraction)
    assert torch.equal(new, as_mask(shape, chosen))
    assert counts.tolist() == [len(chosen.intersection(group)) for group in groups_of(shape, m)]


@given(st.data(), weights_and_levels())
def test_grow(data, case):
    shape, n, m, level, target = case
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    live = {index for index, alive in enumerate(mask.flatten().tolist()) if alive}
    chosen = grown(score.flatten().tolist(), live, shape, n, m, level, target)
    assert torch.equal(NM(n, m).grow(score, mask, level), as_mask(shape, chosen))


@given(st.data(), weights_and_levels(), levels)
def test_drop_and_grow(data, case, fraction):
    shape, n, m, level, target = case
    weight, growth = data.draw(scores(shape)), data.draw(scores(shape))
    mask = data.draw(masks(shape))
    magnitudes = weight.abs().flatten().tolist()
    live = {index for index, alive in enumerate(mask.flatten().tolist()) if alive}
    first = winners(magnitudes, live, shape, n, m)
    free_places = math.prod(shape) // m * n - len(first)
    stay = min(kept_exactly(fraction, len(live)), target - free_places)
    kept = ranked(magnitudes, first, live, stay)
    chosen = grown(growth.abs().flatten().tolist(), kept, shape, n, m, level, target)
    new = NM(n, m).drop_and_grow(weight, mask, level, fraction, growth)
    assert torch.equal(new, as_mask(shape, chosen))
    assert int(new.sum()) == target
    if level == (m - n) / m:
        assert (NM(n, m).pool(new).sum(1) == n).all()


def test_a_small_fraction_drops_few():
    weight, growth = torch.rand(2, 10, 40, generator=torch.Generator().manual_seed(0))
    two_of_four = NM(2, 4)
    mask = two_of_four.topk(weight, 0.5)
    new = two_of_four.drop_and_grow(weight * mask, mask, 0.5, 0.1, growth)
    assert 0 < int((mask & ~new).sum()) <= 20


@pytest.mark.parametrize("shape", [(6, 8), (4, 8, 3, 3)])
def test_a_rising_level_ends_at_n_of_m(shape):
    """Raise the level as GMP does: each mask is chosen from the weight that is already pruned."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    at_once = NM(2, 4).topk(weight, 0.5, magnitude=True)
    for level in (0.0, 0.1, 0.3, 0.45, 0.5):
        mask = NM(2, 4).topk(weight, level, magnitude=True)
        weight = weight * mask
        assert int(mask.sum()) == num_kept(level, weight.numel())
        assert not (at_once & ~mask).any()
    assert torch.equal(mask, at_once)


@given(st.data(), weights_and_levels())
def test_a_dense_start_without_drops_is_topk(data, case):
    shape, n, m, level, _ = case
    weight, growth = data.draw(scores(shape)), data.draw(scores(shape))
    dense = torch.ones(shape, dtype=torch.bool)
    new = NM(n, m).drop_and_grow(weight, dense, level, 0.0, growth)
    assert torch.equal(new, NM(n, m).topk(weight, level, magnitude=True))


@given(st.data(), weights())
def test_n_equal_to_m_keeps_everything(data, weight):
    shape, _, m = weight
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    assert NM(m, m).topk(score, 0.0).all()
    assert NM(m, m).drop_and_grow(score, mask, 0.0, 0.3, score).all()


@given(st.data(), levels)
def test_all_inputs_in_one_group_of_one_row_are_unstructured(data, fraction):
    weight, growth = data.draw(scores((1, 6))), data.draw(scores((1, 6)))
    mask = NM(4, 6).topk(weight, 2 / 6)
    assert torch.equal(mask, Unstructured().topk(weight, 2 / 6))
    both = [
        structure.drop_and_grow(weight, mask, 2 / 6, fraction, growth)
        for structure in (NM(4, 6), Unstructured())
    ]
    assert torch.equal(*both)


class Blocks:
    """A matrix in blocks of two rows."""

    def __init__(self, whole):
        self.whole, self.shape = whole, whole.shape

    def row_blocks(self):
        for start in range(0, self.shape[0], 2):
            yield start, self.whole[start : start + 2].clone()

    def dense(self):
        return torch.cat([block for _, block in self.row_blocks()])


def test_scores_in_row_blocks():
    weight, growth = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = NM(1, 4).topk(weight, 0.75)
    in_blocks = NM(1, 4).drop_and_grow(weight, mask, 0.75, 0.5, Blocks(growth))
    assert torch.equal(in_blocks, NM(1, 4).drop_and_grow(weight, mask, 0.75, 0.5, growth))
    assert not torch.equal(in_blocks, mask)


def test_complex_weights_are_ranked_by_magnitude():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, dtype=torch.complex64, generator=generator)
    mask = NM(2, 4).topk(weight, 0.5, magnitude=True)
    assert torch.equal(mask, NM(2, 4).topk(weight.abs(), 0.5))


@pytest.mark.parametrize("method", [init.random, init.topk, init.checkerboard])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_initial_masks(method, dtype):
    p = torch.randn(6, 8, 3, 3).to(dtype)
    assert (NM(2, 4).pool(method(p, 0.5, NM(2, 4))).sum(1) == 2).all()
    assert int(method(p, 0.25, NM(2, 4)).sum()) == num_kept(0.25, p.numel())


def test_nan_raises():
    score = torch.ones(2, 4)
    score[1, 3] = math.nan
    for level in (0.5, 0.25):
        with pytest.raises(ScoreError, match="NaN"):
            NM(2, 4).topk(score, level)


def test_the_level_is_its_own():
    assert NM(2, 4).level(None) == 0.5
    for n, m in ((2, 4), (1, 3), (2, 5), (7, 9)):
        level = NM(n, m).level(None)
        for asked in (level, torch.tensor(level), torch.tensor(level).double()):
            assert NM(n, m).level(asked) == level == float(Fraction(m - n, m))
            assert NM(n, m).num_kept(torch.Size([100, m]), asked) == 100 * n
    with pytest.raises(
        LevelError, match=r"^sparsity must be 0\.5, the level of NM\(2, 4\), or a .* got 0\.3"
    ):
        NM(2, 4).level(0.3)


@pytest.mark.parametrize("level", [0.51, 0.9, 1.0])
def test_levels_above_raise(level):
    ones, mask = torch.ones(2, 4), torch.ones(2, 4) > 0
    for call in (
        lambda: NM(2, 4).topk(ones, level),
        lambda: NM(2, 4).grow(ones, mask, level),
        lambda: NM(2, 4).drop_and_grow(ones, mask, level, 0.3, ones),
        lambda: init.random(ones, level, NM(2, 4)),
    ):
        with pytest.raises(
            LevelError, match=r"^sparsity must be at most 0\.5, the level of NM\(2, 4\); got"
        ):
            call()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 6), r"shape \(4, 6\): its input dimension 6 is not divisible by m = 4"),
        ((4, 6, 2, 2), r"input dimension 6"),
        ((4,), r"shape \(4,\): it has no input dimension"),
    ],
)
def test_shapes_that_do_not_fit_raise(shape, message):
    for call in (NM(2, 4), lambda score: NM(2, 4).topk(score, 0.5)):
        with pytest.raises(ShapeError, match=message):
            call(torch.zeros(shape))


def test_a_mask_of_another_shape_raises():
    with pytest.raises(ShapeError, match=r"a mask of shape \(8, 2\): the score has shape"):
        NM(1, 2).drop_and_grow(torch.ones(4, 4), torch.ones(8, 2) > 0, 0.5, 0.5, torch.ones(4, 4))


def test_bad_numbers_raise():
    with pytest.raises(OptionError, match=r"n:m structure must be between 1 and m = 4; got 5\.$"):
        NM(5, 4)
    with pytest.raises(
        OptionError, match=r"^n of an n:m structure must be between 1 and m = 4; got 0"
    ):
        NM(0, 4)
    with pytest.raises(OptionError, match=r"^m of an n:m structure must be an integer >= 1; got 0"):
        NM(1, 0)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(
            OptionTypeError, match=r"^n of an n:m structure must be an integer >= 1"
        ):
            NM(wrong, 4)
