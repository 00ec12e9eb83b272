"""Blocks compared with plain Python."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.twins import as_mask, best, kept_exactly, levels, masks, scores
from sparsewright import init
from sparsewright.errors import OptionError, OptionTypeError, ScoreError, ShapeError
from sparsewright.structures import Block, Unstructured, make_structure
from sparsewright.utils import make_mask_drop_minimum, make_mask_grow_maximum

POOLS = {
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "l2": lambda values: math.sqrt(sum(value * value for value in values)),
    "sum": sum,
}


def blocks_of(shape, high, wide):
    """Return the flat indices of each block, row of blocks by row of blocks."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    return [
        index[row : row + high, column : column + wide].flatten().tolist()
        for row in range(0, shape[0], high)
        for column in range(0, shape[1], wide)
    ]


@st.composite
def blocks(draw):
    """Draw a shape with up to three kernel dimensions, and a block that divides it."""
    high, wide = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shape = [high * draw(st.integers(0, 3)), wide * draw(st.integers(0, 3))]
    shape += draw(st.lists(st.integers(0, 3), max_size=3))
    return tuple(shape), high, wide


def finite(shape):
    """Draw scores whose sums are exact, and that do not add infinities of both signs."""
    return scores(shape).map(lambda score: score.nan_to_num(posinf=4.0, neginf=-4.0))


def entries(units, chosen):
    return {index for unit in chosen for index in units[unit]}


def pooled(score, units, pool):
    flat = score.double().flatten().tolist()
    return [POOLS[pool]([flat[index] for index in unit]) for unit in units]


@given(st.data(), blocks(), st.sampled_from(list(POOLS)))
def test_scores_of_blocks(data, case, pool):
    shape, high, wide = case
    units = [unit for unit in blocks_of(shape, high, wide) if unit]
    score = data.draw(finite(shape))
    structure = Block((high, wide), pool)
    found, back = structure(score)
    assert tuple(found.shape) == structure.rows(score.shape) == (1, len(units))
    torch.testing.assert_close(found[0].double(), torch.tensor(pooled(score, units, pool)).double())
    chosen = torch.arange(len(units)).reshape(1, -1) % 3 == 0
    assert torch.equal(back(chosen), as_mask(shape, entries(units, range(0, len(units), 3))))
    mask = data.draw(masks(shape))
    live = [any(mask.flatten()[index] for index in unit) for unit in units]
    assert structure.pool(mask).tolist() == [live]


@given(st.data(), blocks(), st.sampled_from(list(POOLS)), levels, st.booleans())
def test_topk(data, case, pool, level, magnitude):
    shape, high, wide = case
    units = [unit for unit in blocks_of(shape, high, wide) if unit]
    score = data.draw(finite(shape))
    ranked = pooled(score.abs() if magnitude else score, units, pool)
    chosen = best(ranked, list(range(len(units))), kept_exactly(level, len(units)))
    structure = Block((high, wide), pool)
    mask = structure.topk(score, level, magnitude=magnitude)
    assert torch.equal(mask, as_mask(shape, entries(units, chosen)))
    assert structure.num_kept(score.shape, level) == int(mask.sum())


@given(st.data(), blocks(), levels, levels)
def test_drop_and_grow(data, case, level, fraction):
    shape, high, wide = case
    units = [unit for unit in blocks_of(shape, high, wide) if unit]
    weight, growth = data.draw(finite(shape)), data.draw(finite(shape))
    mask = data.draw(masks(shape))
    alive = mask.flatten().tolist()
    live = [number for number, unit in enumerate(units) if any(alive[index] for index in unit)]
    target = kept_exactly(level, len(units))
    stay = min(kept_exactly(fraction, len(live)), target)
    kept = best(pooled(weight.abs(), units, "mean"), live, stay)
    others = [number for number in range(len(units)) if number not in kept]
    chosen = kept | best(pooled(growth.abs(), units, "mean"), others, target - len(kept))
    new = Block((high, wide)).drop_and_grow(weight, mask, level, fraction, growth)
    assert torch.equal(new, as_mask(shape, entries(units, chosen)))


@given(st.data(), blocks(), levels, levels)
def test_drop_stays_below_the_mask_and_grow_fills_whole_blocks(data, case, level, fraction):
    shape, high, wide = case
    units = [unit for unit in blocks_of(shape, high, wide) if unit]
    score, mask = data.draw(finite(shape)), data.draw(masks(shape))
    alive = mask.flatten().tolist()
    live = [number for number, unit in enumerate(units) if any(alive[index] for index in unit)]
    ranked = pooled(score, units, "mean")
    kept = best(ranked, live, kept_exactly(fraction, len(live)))
    stays, counts = make_mask_drop_minimum(score, mask, fraction, Block((high, wide)))
    assert torch.equal(stays, as_mask(shape, entries(units, kept)) & mask)
    assert counts.tolist() == [len(kept)]
    others = [number for number in range(len(units)) if number not in kept]
    grown = best(ranked, others, kept_exactly(level, len(units)) - len(kept))
    for known in (counts, None):
        new = make_mask_grow_maximum(score, stays, level, known, Block((high, wide)))
        assert torch.equal(new, as_mask(shape, entries(units, kept | grown)))


@given(st.data(), st.sampled_from(["mean", "max", "sum"]), levels, levels)
def test_blocks_of_one_entry_are_unstructured(data, pool, level, fraction):
    shape = (data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5)))
    weight, growth = data.draw(scores(shape)), data.draw(scores(shape))
    mask, one = data.draw(masks(shape)), Block((1, 1), pool)
    assert torch.equal(one.topk(weight, level), Unstructured().topk(weight, level))
    both = [s.drop_and_grow(weight, mask, level, fraction, growth) for s in (one, Unstructured())]
    assert torch.equal(*both)


@pytest.mark.parametrize("pool", POOLS)
def test_a_weight_that_is_one_block_is_all_or_nothing(pool):
    structure = Block((4, 6), pool)
    assert structure.topk(torch.rand(4, 6), 0.0).all()
    assert not structure.topk(torch.rand(4, 6), 0.1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", POOLS)
def test_short_dtypes_neither_overflow_nor_lose_small_entries(dtype, pool):
    score = torch.full((8, 8), 60000.0).to(dtype)
    score[4:, :4] *= 2**-4
    assert Block((4, 4), pool).topk(score, 0.25).tolist() == [
        *[[True] * 8] * 4,
        *[[False] * 4 + [True] * 4] * 4,
    ]
    small = torch.full((2, 512), 2.0**-12, dtype=dtype)
    small[0, 0], small[1, 0] = 1, 1
    small[1, 1:] = 0  # a sum in the scores' own dtype would not see the small entries
    assert Block((1, 512), pool).topk(small, 0.5)[0].all()


def test_l2_of_tiny_and_huge_scores_keeps_their_order():
    for scale in (1e-30, 1e30):
        score = torch.tensor([[1.0, 1.0, 1.2, 0.0]]) * scale
        assert Block((1, 2), "l2").topk(score, 0.5).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_does_not_depend_on_the_layout(pool):
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(12, 20, 3, 3, generator=generator)
    units = Block((3, 5), pool).pool(wide)
    for other in (wide.transpose(0, 1).contiguous().transpose(0, 1), wide[..., :3].clone()):
        assert torch.equal(Block((3, 5), pool).pool(other), units)
    parts = [Block((3, 5), pool).pool(part) for part in wide.split(3)]
    assert torch.equal(torch.cat(parts, 1), units)


@pytest.mark.parametrize("pool", POOLS)
def test_large_weights_are_pooled_slab_by_slab(pool):
    score = torch.rand(1000, 200, 2, generator=torch.Generator().manual_seed(0))
    tiles = score.double().reshape(250, 4, 40, 10).transpose(1, 2).reshape(-1, 40)
    expected = {"mean": tiles.mean(1), "max": tiles.amax(1), "l2": tiles.norm(dim=1)}
    expected["sum"] = tiles.sum(1)
    found = Block((4, 5), pool).pool(score)
    torch.testing.assert_close(found[0], expected[pool].to(found.dtype))
    assert torch.equal(Block((4, 5), pool).pool(score > 0.99), (tiles > 0.99).any(1)[None])


class InRows:
    """A matrix in blocks of three rows, as a compressed layer gives its gradient."""

    def __init__(self, whole):
        self.whole, self.shape = whole, whole.shape

    def row_blocks(self):
        for start in range(0, self.shape[0], 3):
            yield start, self.whole[start : start + 3].clone()

    def dense(self):
        return torch.cat([block for _, block in self.row_blocks()])


def test_scores_in_row_blocks():
    weight, growth = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = Block((2, 4)).topk(weight, 0.5)
    growth *= ~mask
    found = Block((2, 4)).drop_and_grow(weight, mask, 0.5, 0.5, InRows(growth))
    assert torch.equal(found, Block((2, 4)).drop_and_grow(weight, mask, 0.5, 0.5, growth))
    assert not torch.equal(found, mask)


def test_complex_weights_are_ranked_by_magnitude():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, dtype=torch.complex64, generator=generator)
    mask = Block((2, 4), "l2").topk(weight, 0.5, magnitude=True)
    assert torch.equal(mask, Block((2, 4), "l2").topk(weight.abs(), 0.5))


@pytest.mark.parametrize("method", [init.random, init.topk, init.checkerboard])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_initial_masks(method, dtype):
    mask = method(torch.randn(8, 8, 3, 3).to(dtype), 0.75, Block((4, 2)))
    whole = Block((4, 2))
    assert int(whole.pool(mask).sum()) == 2
    assert int(mask.sum()) == 2 * 4 * 2 * 9


@pytest.mark.parametrize("pool", POOLS)
def test_nan_raises_only_at_a_candidate(pool):
    score = torch.ones(4, 4)
    score[3, 3] = math.nan
    with pytest.raises(ScoreError, match=r"^score contains NaN; its entries cannot be ranked$"):
        Block((2, 2), pool).topk(score, 0.5)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2:, 2:] = False
    stays, _ = Block((2, 2), pool).drop(score, mask, 0.34)
    assert stays.tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (6, 8),
            "a weight of shape (6, 8): its output dimension 6 cannot be divided into blocks of 4; "
            "use 3 or 6",
        ),
        (
            (8, 3, 2, 2),
            "a weight of shape (8, 3, 2, 2): its input dimension 3 cannot be divided into blocks "
            "of 4; use 3",
        ),
        ((8,), "a weight of shape (8,): it has no input dimension"),
        ((), "a weight of shape (): it has no output dimension"),
    ],
)
def test_shapes_that_do_not_fit_raise(shape, message):
    for call in (Block(), lambda score: Block().topk(score, 0.5)):
        with pytest.raises(ShapeError) as caught:
            call(torch.zeros(shape))
        assert str(caught.value) == message


def test_the_sides_of_a_weight_with_inputs_first():
    swapped = Block((4, 2)).with_dims(1, 0)
    assert swapped.rows(torch.Size([2, 4])) == (1, 1)
    with pytest.raises(
        ShapeError, match=r"its output dimension 6 cannot be divided into blocks of"
    ):
        swapped.rows(torch.Size([8, 6]))


@given(st.integers(1, 30), st.integers(1, 30))
def test_the_nearest_sides_are_named(size, side):
    assume(size % side)
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    near = [
        max(n for n in divisors if n < side),
        *itertools.islice((n for n in divisors if n > side), 1),
    ]
    with pytest.raises(ShapeError, match=f"use {' or '.join(map(str, near))}$"):
        Block((side, 1)).rows(torch.Size([size, 2]))


def test_options():
    assert repr(Block()) == "Block((4, 4))"
    assert repr(make_structure({"type": "block", "shape": [2, 8], "pool": "l2"})) == (
        "Block((2, 8), pool='l2')"
    )
    with pytest.raises(OptionError, match=r"^unknown pool 'men'; did you mean 'mean'"):
        Block(pool="men")
    allowed = "two integers >= 1, the outputs and the inputs of a block"
    with pytest.raises(OptionError, match=rf"^shape must be {allowed}; got \(0, 4\)\.$"):
        Block((0, 4))
    for wrong in (4, (4,), (4, 4, 4), (4, 2.0), (True, 4), "44", None):
        with pytest.raises(OptionTypeError, match=rf"^shape must be {allowed}; got "):
            Block(wrong)
