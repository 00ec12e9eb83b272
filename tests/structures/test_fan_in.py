"""Constant fan-in compared with plain Python, which follows the text of the definition."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.twins import DTYPES, as_mask, best, kept_exactly, levels, masks, scores
from sparsewright import init
from sparsewright.core.counts import num_kept
from sparsewright.errors import (
    MissingOptionError,
    OptionError,
    OptionTypeError,
    ScoreError,
    ShapeError,
)
from sparsewright.structures import FanIn, Groups, Unstructured, make_structure
from sparsewright.utils import make_mask_topk_sparsity

ablations = st.sampled_from([0, 0.1, 0.3, 0.5, 0.95, 1])


@st.composite
def shapes(draw):
    shape = [draw(st.integers(0, 5)), draw(st.integers(0, 5))]
    return tuple(shape + draw(st.lists(st.integers(1, 2), max_size=3)))


def rows_of(shape):
    n = math.prod(shape[1:])
    return [list(range(row * n, (row + 1) * n)) for row in range(shape[0])]


def flat_of(tensor):
    return tensor.flatten().tolist()


def live_of(mask):
    return {index for index, alive in enumerate(flat_of(mask)) if alive}


def fan_in_of(shape, ablate, budget, salient, always=frozenset()):
    """Return the new fan-in of each row, and 0 for those that are ablated."""
    rows, dense = rows_of(shape), math.prod(shape[1:])
    if not rows or not dense:
        return [0] * len(rows)
    saliency = [
        dense if row in always else len(salient & set(rows[row])) for row in range(len(rows))
    ]
    bar = max(1, math.floor(Fraction(str(ablate)) * dense))
    descending, place = sorted(saliency, reverse=True), budget // dense
    bar = min(bar, descending[place]) if place < len(rows) else 0
    active = [row for row in range(len(rows)) if not saliency[row] < bar]
    return [budget // len(active) if row in active else 0 for row in range(len(rows))]


def srigl(weight, mask, level, fraction, growth, ablate):
    """Update a mask as the definition says, with scores and masks in plain lists."""
    shape = tuple(weight.shape)
    size, w, g = math.prod(shape), flat_of(weight.abs()), flat_of(growth.abs())
    live, budget = live_of(mask), kept_exactly(level, math.prod(shape))
    after = kept_exactly(fraction, len(live))
    keep = best(w, sorted(live), min(after, budget))
    grow = best(g, list(range(size)), min(len(live) - after, budget - len(keep)))
    new = set()
    for row, fan_in in zip(
        rows_of(shape), fan_in_of(shape, ablate, budget, keep | grow), strict=True
    ):
        stays = best(w, [index for index in row if index in keep], fan_in)
        rest = [index for index in row if index not in stays]
        new |= stays | best(g, rest, fan_in - len(stays))
    return new


def fan_ins(mask):
    return mask.flatten(1).sum(1).tolist()


@given(shapes())
def test_rows_are_outputs(shape):
    flat = torch.arange(math.prod(shape)).reshape(shape)
    for structure in (FanIn(), FanIn(ablate=0.3)):
        rows, back = structure(flat)
        assert rows.tolist() == rows_of(shape)
        assert torch.equal(back(rows), flat)


@given(st.data(), shapes(), levels, levels)
def test_without_ablation_it_is_one_group_for_each_output(data, shape, level, fraction):
    assume(shape[0])
    groups, weight, growth = Groups(outputs=shape[0]), *(data.draw(scores(shape)) for _ in "wg")
    mask = data.draw(masks(shape))
    for call in (
        lambda structure: structure.topk(weight, level, magnitude=True),
        lambda structure: structure.drop(weight, mask, fraction)[0],
        lambda structure: structure.grow(weight, mask, level),
        lambda structure: structure.drop_and_grow(weight, mask, level, fraction, growth),
        lambda structure: structure.sample(weight, level),
    ):
        assert torch.equal(call(FanIn()), call(groups))
    assert FanIn().num_kept(weight.shape, level) == int(FanIn().topk(weight, level).sum())


@given(st.data(), shapes(), levels)
def test_the_same_fan_in_as_the_paper(data, shape, level):
    score = data.draw(scores(shape))
    expected = kept_exactly(level, math.prod(shape)) // max(shape[0], 1)
    assert set(fan_ins(FanIn().topk(score, level))) <= {expected}
    for ablate in (0.3, 1) if expected else ():
        assert torch.equal(FanIn(ablate).sample(score, level), FanIn().topk(score, level))


@given(st.data(), shapes(), levels, levels, ablations)
def test_drop_and_grow(data, shape, level, fraction, ablate):
    weight, growth = (data.draw(scores(shape)) for _ in "wg")
    mask = data.draw(masks(shape))
    expected = srigl(weight, mask, level, fraction, growth, ablate)
    new = FanIn(ablate).drop_and_grow(weight, mask, level, fraction, growth)
    assert torch.equal(new, as_mask(shape, expected))
    counts = [count for count in fan_ins(new) if count]
    assert len(set(counts)) <= 1
    assert kept_exactly(level, weight.numel()) - sum(counts) in range(max(len(counts), 1)) or (
        not counts
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_many_updates(level, dtype):
    """Update a mask whose rows differ in size; small weights and gradients ablate rows."""
    generator = torch.Generator().manual_seed(3)
    structure = FanIn(ablate=0.3)
    scale = torch.logspace(-1, 1, 20)[torch.randperm(20, generator=generator)].reshape(20, 1, 1)
    mask = structure.sample(torch.rand(20, 10, 3, generator=generator), level)
    active = []
    for _ in range(6):
        weight, growth = torch.randn(2, 20, 10, 3, generator=generator)
        weight, growth = (weight * scale * mask).to(dtype), (growth * scale).to(dtype)
        expected = srigl(weight, mask, level, 0.3, growth, 0.3)
        mask = structure.drop_and_grow(weight, mask, level, 0.3, growth)
        assert torch.equal(mask, as_mask(mask.shape, expected))
        active.append(sum(map(bool, fan_ins(mask))))
    budget = num_kept(level, 600)
    assert budget // 30 < active[-1] < 20
    assert int(mask.sum()) == budget // active[-1] * active[-1]


def test_an_ablated_neuron_returns_only_if_enough_places_grow():
    weight = torch.zeros(5, 4)
    weight[1:4, :2], weight[4, :2] = torch.tensor([4.0, 3]), torch.tensor([2.0, 1])
    mask, growth = weight != 0, torch.zeros(5, 4)
    growth[0, 0], growth[1, 0] = 9, 8
    # Two of eight connections drop, both in the last row. The bar is at two of four inputs.
    one = FanIn(0.5).drop_and_grow(weight, mask, 0.6, 0.25, growth)
    assert fan_ins(one) == [0, 2, 2, 2, 0]
    growth[0, 3] = 8.5
    two = FanIn(0.5).drop_and_grow(weight, mask, 0.6, 0.25, growth)
    assert fan_ins(two) == [2, 2, 2, 2, 0]
    assert two[0].tolist() == [True, False, False, True]
    assert torch.equal(two[1:4], mask[1:4])


def test_the_bar_leaves_enough_neurons_for_the_budget():
    """With a bar of all inputs, `budget // n + 1` neurons or more stay active."""
    weight = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    for level, active in ((0.9, 2), (0.75, 3), (0.5, 6), (0.0, 10)):
        mask = FanIn(1).topk(weight, level, magnitude=True)
        assert sum(map(bool, fan_ins(mask))) >= active
        assert int(mask.sum()) > num_kept(level, 80) - 10


@given(st.data(), shapes(), levels, ablations, st.booleans())
def test_topk(data, shape, level, ablate, magnitude):
    score = data.draw(scores(shape))
    flat, budget = flat_of(score.abs() if magnitude else score), kept_exactly(level, score.numel())
    candidates = [index for index, value in enumerate(flat) if value or not magnitude]
    each = fan_in_of(shape, ablate, budget, best(flat, candidates, budget))
    chosen = [best(flat, row, num) for row, num in zip(rows_of(shape), each, strict=True)]
    mask = make_mask_topk_sparsity(score, level, FanIn(ablate), magnitude=magnitude)
    assert torch.equal(mask, as_mask(shape, set().union(*chosen)))


def test_neurons_that_magnitude_pruning_ablated_stay_ablated():
    weight = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    structure, before = FanIn(0.5), torch.ones(12, dtype=torch.bool)
    for level in (0.2, 0.5, 0.7, 0.8, 0.8, 0.8):
        mask = structure.topk(weight, level, magnitude=True)
        weight = weight * mask
        active = mask.any(1)
        assert not (active & ~before).any()
        before = active
    assert 0 < int(before.sum()) < 12


def test_a_weight_of_zeros_has_no_ablated_neurons():
    assert fan_ins(FanIn(0.5).topk(torch.zeros(4, 6), 0.5, magnitude=True)) == [3] * 4


@given(st.data(), shapes(), levels, ablations)
def test_drop_takes_from_the_whole_weight(data, shape, fraction, ablate):
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    new, counts = FanIn(ablate).drop(score, mask, fraction)
    assert torch.equal(new, Unstructured().drop(score, mask, fraction)[0])
    assert counts.tolist() == fan_ins(new)


@given(st.data(), shapes(), levels, ablations)
def test_grow(data, shape, level, ablate):
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    flat, live, budget = flat_of(score), live_of(mask), kept_exactly(level, score.numel())
    grow = best(flat, list(range(score.numel())), max(budget - len(live), 0))
    rows = rows_of(shape)
    always = {number for number, row in enumerate(rows) if live & set(row)}
    new = set(live)
    for row, fan_in in zip(
        rows, fan_in_of(shape, ablate, budget, live | grow, always), strict=True
    ):
        free = [index for index in row if index not in live]
        new |= best(flat, free, fan_in - (len(row) - len(free)))
    assert torch.equal(FanIn(ablate).grow(score, mask, level), as_mask(shape, new))


def test_growth_leaves_neurons_with_connections_active():
    """The first neuron has one connection, which is below the bar of two; the fifth grows two."""
    mask, score = torch.zeros(6, 4, dtype=torch.bool), torch.zeros(6, 4)
    mask[0, 3] = mask[1:4, :3] = True
    score[4, 2:] = 1
    grown = FanIn(0.5).grow(score, mask, 0.5)
    assert fan_ins(grown) == [2, 3, 3, 3, 2, 0]
    assert not (mask & ~grown).any()


def test_a_dense_level_keeps_everything():
    score = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for structure in (FanIn(), FanIn(0.3), FanIn(1)):
        assert structure.topk(score, 0.0).all()
        assert structure.drop_and_grow(score, torch.rand(3, 4) > 0.5, 0.0, 0.3, score).all()
        assert not structure.topk(score, 1.0).any()


@pytest.mark.parametrize("method", [init.random, init.checkerboard])
def test_initial_masks_ablate_nothing(method):
    mask = method(torch.randn(16, 10, 3), 0.9, FanIn(ablate=0.5))
    assert fan_ins(mask) == [3] * 16


@pytest.mark.parametrize("method", [init.random, init.checkerboard])
@pytest.mark.parametrize("shape", [(16, 8), (8, 2, 3)])
def test_a_budget_below_one_connection_for_each_neuron_is_used(method, shape):
    structure, budget = FanIn(ablate=0.01), num_kept(0.95, math.prod(shape))
    assert budget < shape[0]
    mask = method(torch.randn(shape), 0.95, structure)
    for _ in range(3):
        assert 0 < int(mask.sum()) <= budget
        score = torch.randn(shape)
        mask = structure.drop_and_grow(torch.randn(shape) * mask, mask, 0.95, 0.3, score)


def test_nan_raises():
    score, mask = torch.ones(4, 4), torch.ones(4, 4) > 0
    score[2, 3] = math.nan
    for structure in (FanIn(), FanIn(0.3)):
        for call in (
            lambda s: s.topk(score, 0.5),
            lambda s: s.drop_and_grow(score, mask, 0.5, 0.3, torch.ones(4, 4)),
            lambda s: s.drop_and_grow(torch.ones(4, 4), mask, 0.5, 0.3, score),
        ):
            with pytest.raises(ScoreError, match="NaN"):
                call(structure)


def test_layouts_and_complex_weights():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, 3, generator=generator, dtype=torch.complex64)
    for structure in (FanIn(), FanIn(0.3)):
        mask = structure.topk(weight, 0.8, magnitude=True)
        assert torch.equal(mask, structure.topk(weight.abs(), 0.8, magnitude=True))
        other = weight.movedim(0, 2).contiguous().movedim(2, 0)
        assert torch.equal(structure.topk(other, 0.8, magnitude=True), mask)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_shapes_without_inputs_raise(shape):
    for structure in (FanIn(), FanIn(0.3)):
        with pytest.raises(ShapeError, match=r"^a weight of shape .* it has no input dimension$"):
            structure.topk(torch.zeros(shape), 0.5)


def test_a_mask_of_another_shape_raises():
    for structure in (FanIn(), FanIn(0.3)):
        with pytest.raises(ShapeError, match=r"^a mask of shape \(8, 2\): the score has shape"):
            structure.drop_and_grow(
                torch.ones(4, 4), torch.ones(8, 2) > 0, 0.5, 0.5, torch.ones(4, 4)
            )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"ablate": 1.5},
            OptionError,
            r"^ablate must be a number between 0 and 1, or None; got 1\.5\.$",
        ),
        ({"ablate": math.nan}, OptionError, r"^ablate must be a number between 0 and 1"),
        (
            {"ablate": "0.3"},
            OptionTypeError,
            r"^ablate must be a number between 0 and 1, or None; got '0\.3' \(str\)\.$",
        ),
        ({"ablate": True}, OptionTypeError, r"^ablate must be .*; got True \(bool\)\.$"),
        (
            {"ablate": 0.3, "exempt": 4},
            OptionTypeError,
            r"^exempt must be a glob or a list of globs; got 4 \(int\)\.$",
        ),
        (
            {"exempt": ["head.*"]},
            MissingOptionError,
            r"^structure 'fan_in' with exempt needs the option 'ablate': a number between 0 "
            r"and 1\.$",
        ),
    ],
)
def test_bad_options_raise(options, error, message):
    with pytest.raises(error, match=message):
        make_structure({"type": "fan_in", **options})


def test_representations():
    assert repr(make_structure("fan_in")) == "FanIn()"
    made = make_structure({"type": "fan_in", "ablate": 0.3, "exempt": ["head.*"]})
    assert repr(made) == "FanIn(ablate=0.3, exempt=('head.*',))"
    assert repr(FanIn(0.3, "head.*")) == repr(made)
    assert made.num_kept(torch.Size([8, 4]), 0.5) is None
