"""Channels compared with plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.twins import as_mask, best, kept_exactly, levels, masks, scores
from sparsewright import init
from sparsewright.errors import OptionError, OptionTypeError, ScoreError, ShapeError
from sparsewright.structures import Block, Channel, Unstructured, make_structure

NORMS = [0.5, 1, 2, 3, math.inf]


def norm_of(values, norm):
    """Return the norm without its root, which does not change the order."""
    sizes = [abs(value) for value in values]
    if norm == math.inf:
        return max(sizes, default=0.0)
    return sum(size**norm for size in sizes)


def channels_of(shape, axis):
    """Return the flat indices of each channel."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    return [index.select(axis, number).flatten().tolist() for number in range(shape[axis])]


def entries(units, chosen):
    return {index for unit in chosen for index in units[unit]}


@st.composite
def weights(draw):
    """Draw a shape with one to five dimensions, and an axis with several channels or none."""
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=2))
    shape += draw(st.lists(st.integers(0, 2), max_size=3)) if len(shape) == 2 else []
    axis = draw(st.integers(0, min(len(shape), 2) - 1))
    shape[axis] += shape[axis] == 1
    return tuple(shape), axis


def ranked(score, units, norm):
    flat = score.double().flatten().tolist()
    return [norm_of([flat[index] for index in unit], norm) for unit in units]


@given(st.data(), weights(), st.sampled_from([1, 2, math.inf]), levels)
def test_topk(data, weight, norm, level):
    shape, axis = weight
    units, score = channels_of(shape, axis), data.draw(scores(shape))
    kept = kept_exactly(level, len(units))
    chosen = best(ranked(score, units, norm), list(range(len(units))), kept)
    structure = Channel(axis, norm)
    mask = structure.topk(score, level, magnitude=data.draw(st.booleans()))
    assert torch.equal(mask, as_mask(shape, entries(units, chosen)))
    assert structure.num_kept(score.shape, level) == int(mask.sum())
    assert structure.rows(score.shape) == (1, len(units))
    assert structure.topk(score, level).is_contiguous()


@given(st.data(), weights(), st.sampled_from(NORMS))
def test_scores_of_channels(data, weight, norm):
    shape, axis = weight
    units, score = channels_of(shape, axis), data.draw(scores(shape))
    sums = torch.tensor(ranked(score, units, norm), dtype=torch.float64)
    expected = sums if norm == math.inf else sums ** (1 / norm)
    torch.testing.assert_close(Channel(axis, norm).pool(score)[0].double(), expected)
    mask = data.draw(masks(shape))
    live = [any(mask.flatten()[index] for index in unit) for unit in units]
    assert Channel(axis, norm).pool(mask).tolist() == [live]


@given(st.data(), weights(), levels, levels)
def test_drop_and_grow(data, weight, level, fraction):
    shape, axis = weight
    units = channels_of(shape, axis)
    score, growth, mask = (data.draw(draw(shape)) for draw in (scores, scores, masks))
    alive = mask.flatten().tolist()
    live = [number for number, unit in enumerate(units) if any(alive[index] for index in unit)]
    target = kept_exactly(level, len(units))
    kept = best(ranked(score, units, 1), live, min(kept_exactly(fraction, len(live)), target))
    others = [number for number in range(len(units)) if number not in kept]
    chosen = kept | best(ranked(growth, units, 1), others, target - len(kept))
    new = Channel(axis).drop_and_grow(score, mask, level, fraction, growth)
    assert torch.equal(new, as_mask(shape, entries(units, chosen)))


@given(st.data(), st.sampled_from([0, 2, 3, 6]), levels, levels)
def test_outputs_of_a_vector_are_unstructured(data, size, level, fraction):
    weight, growth = data.draw(scores((size,))), data.draw(scores((size,)))
    mask = data.draw(masks((size,)))
    both = [
        structure.drop_and_grow(weight, mask, level, fraction, growth)
        for structure in (Channel(), Unstructured())
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("axis", [0, 1])
def test_filters_and_inputs_are_blocks_as_wide_as_the_weight(axis):
    weight = torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    block = Block((6, 1) if axis else (1, 4), "sum")
    assert torch.equal(Channel(axis).topk(weight, 0.5), block.topk(weight, 0.5))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("axis", [0, 1])
def test_large_weights_are_pooled_slab_by_slab(axis, norm):
    score = torch.randn(1000, 200, 2, generator=torch.Generator().manual_seed(0))
    flat = score.double().transpose(0, axis).flatten(1)
    expected = torch.linalg.vector_norm(flat, norm, dim=1)
    torch.testing.assert_close(Channel(axis, norm).pool(score)[0], expected)


@pytest.mark.parametrize("norm", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_of_tiny_and_huge_scores_keep_their_order(norm, scale):
    score = torch.tensor([[1.0, 1.0], [1.01, 1.0], [0.0, 1.0]]) * scale
    assert Channel(0, norm).topk(score, 0.6)[:, 0].tolist() == [False, True, False]


def test_short_dtypes_do_not_overflow():
    score = torch.full((2, 64), 60000.0, dtype=torch.float16)
    score[0, 0] = 0
    assert Channel().topk(score, 0.5)[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("method", [init.random, init.topk, init.checkerboard])
def test_initial_masks(method):
    mask = method(torch.randn(8, 6, 3, 3), 0.75, Channel())
    assert mask.flatten(1).all(1).sum() == 2
    assert int(mask.sum()) == 2 * 6 * 9


@pytest.mark.parametrize("norm", NORMS)
def test_nan_raises_only_at_a_candidate(norm):
    score = torch.ones(3, 4)
    score[2, 0] = math.nan
    with pytest.raises(ScoreError, match=r"^score contains NaN; its entries cannot be ranked$"):
        Channel(0, norm).topk(score, 0.5)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2] = False
    stays, counts = Channel(0, norm).drop(score, mask, 0.5)
    assert stays.tolist() == [[True] * 4, [False] * 4, [False] * 4]
    assert counts.tolist() == [1]


def test_shapes_that_do_not_fit_raise():
    for structure, shape, message in (
        (Channel(1), (8,), "a weight of shape (8,): it has no input dimension"),
        (Channel(0), (), "a weight of shape (): it has no output dimension"),
    ):
        with pytest.raises(ShapeError) as caught:
            structure.topk(torch.zeros(shape), 0.5)
        assert str(caught.value) == message


def test_a_single_channel_does_not_fit():
    message = (
        "a weight of shape (8, 1, 3): it has a single input, so a mask would keep all or nothing"
    )
    with pytest.raises(ShapeError) as caught:
        Channel(1).check_shape(torch.Size((8, 1, 3)))
    assert str(caught.value) == message
    Channel(0).check_shape(torch.Size((8, 1, 3)))
    assert Channel(1).topk(torch.ones(8, 1, 3), 0.0).all()


def test_options():
    assert repr(Channel()) == "Channel(axis=0)"
    made = make_structure({"type": "channel", "axis": 1, "norm": math.inf})
    assert repr(made) == "Channel(axis=1, norm=float('inf'))"
    with pytest.raises(OptionError, match=r"^axis must be 0 \(outputs\) or 1 \(inputs\); got 2\.$"):
        Channel(2)
    for wrong in (1.0, "1", None, True):
        with pytest.raises(OptionTypeError, match=r"^axis must be 0 \(outputs\) or 1 \(inputs\); "):
            Channel(wrong)
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(OptionError, match=r"^norm must be a number > 0, or inf; got "):
            Channel(0, wrong)
    for wrong in ("2", None, True):
        with pytest.raises(OptionTypeError, match=r"^norm must be a number > 0, or inf; got "):
            Channel(0, wrong)
