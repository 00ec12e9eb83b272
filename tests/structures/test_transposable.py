"""Transposable N:M compared with plain Python, which tries every pattern of every 4x4 tile."""

import itertools
import math
from fractions import Fraction
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.support import batch
from helpers.twins import DTYPES, as_mask, best, kept_exactly, levels, masks, scores
from sparsewright import init
from sparsewright.core.counts import num_kept
from sparsewright.errors import OptionError, OptionTypeError, ScoreError, ShapeError
from sparsewright.kernels.reference.tiles import choose_patterns
from sparsewright.structures import NM, make_structure


def transposable(n):
    return NM(n, 4, transposable=True)


@cache
def patterns(n):
    """Return the index sets with n entries in each row and column, found among all 65,536."""
    lines = [{4 * i + j for j in range(4)} for i in range(4)]
    lines += [{4 * j + i for j in range(4)} for i in range(4)]
    every = map(set, itertools.combinations(range(16), 4 * n))
    return sorted(
        (tuple(sorted(p)) for p in every if all(len(p & line) == n for line in lines)),
    )


def tiles_of(shape):
    """Return the 16 flat indices of each tile, row after row."""
    index = torch.arange(math.prod(shape)).reshape(*shape[:2], math.prod(shape[2:]))
    return [
        [int(index[4 * i + a, 4 * j + b, k]) for a in range(4) for b in range(4)]
        for i in range(shape[0] // 4)
        for j in range(shape[1] // 4)
        for k in range(index.shape[2])
    ]


def worth(values):
    """Return a sortable sum of scores in which an infinite score outweighs all finite ones."""
    infinite = sum((value > 0) - (value < 0) for value in values if math.isinf(value))
    return infinite, sum(Fraction(value) for value in values if not math.isinf(value))


def chosen_in(tile, flat, n, first=frozenset()):
    """Return the pattern with the most `first` entries, then the largest score, then the first."""
    order = {
        pattern: (len(first & {tile[i] for i in pattern}), worth([flat[tile[i]] for i in pattern]))
        for pattern in patterns(n)
    }
    pattern = max(patterns(n), key=order.__getitem__)
    return {tile[i] for i in pattern}


def filled(flat, kept, shape, n):
    """Return for all tiles the entries that a mask with these entries gets in addition."""
    scores = [0.0 if index in kept else value for index, value in enumerate(flat)]
    tiles = tiles_of(shape)
    every = [chosen_in(tile, scores, n, frozenset(kept & set(tile))) for tile in tiles]
    return set().union(*every) - kept


def ranked(flat, first, candidates, num):
    """Return the `num` best candidates; those in `first` come before all others."""
    chosen = best(flat, sorted(first), num)
    return chosen | best(flat, sorted(candidates - first), num - len(chosen))


def grown(flat, kept, shape, n, level, target):
    """Fill the tiles, and then the whole weight up to the level."""
    free, first = set(range(math.prod(shape))) - kept, filled(flat, kept, shape, n)
    is_own = level == (4 - n) / 4
    return kept | ranked(flat, first, free, len(first) if is_own else max(target - len(kept), 0))


@st.composite
def shapes(draw):
    shape = [4 * draw(st.integers(0, 2)), 4 * draw(st.integers(0, 2))]
    return tuple(shape + draw(st.lists(st.integers(1, 2), max_size=3)))


@st.composite
def cases(draw):
    """Draw a shape, n, a level at or below `1 - n/4`, and the number of entries to keep."""
    shape, n = draw(shapes()), draw(st.integers(1, 4))
    own = (4 - n) / 4
    below = draw(levels.map(lambda level: round(level * own, 3)))
    level = draw(st.sampled_from([own, min(below, own)]))
    size = math.prod(shape)
    return shape, n, level, size // 4 * n if level == own else kept_exactly(level, size)


def assert_valid(mask, n):
    """Assert that a mask is n:4 along its inputs and along its outputs."""
    for each in (mask, mask.transpose(0, 1)):
        assert (NM(n, 4).pool(each).sum(1) == n).all()


def test_the_number_of_patterns():
    assert [len(patterns(n)) for n in range(1, 5)] == [24, 90, 24, 1]


@given(shapes())
def test_rows_are_tiles(shape):
    structure, flat = transposable(2), torch.arange(math.prod(shape)).reshape(shape)
    rows, back = structure(flat)
    assert rows.tolist() == tiles_of(shape)
    assert tuple(rows.shape) == structure.rows(flat.shape)
    assert torch.equal(back(rows), flat)
    assert back(rows).is_contiguous()


@given(st.data(), cases(), st.booleans())
def test_topk(data, case, magnitude):
    shape, n, level, target = case
    score = data.draw(scores(shape))
    flat = (score.abs() if magnitude else score).flatten().tolist()
    mask = transposable(n).topk(score, level, magnitude=magnitude)
    assert torch.equal(mask, as_mask(shape, grown(flat, set(), shape, n, level, target)))
    assert int(mask.sum()) == target == transposable(n).num_kept(score.shape, level)
    if level == (4 - n) / 4:
        assert_valid(mask, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_random_numbers(dtype, n):
    score = torch.randn(8, 12, 2, generator=torch.Generator().manual_seed(n)).to(dtype)
    chosen = filled(score.flatten().tolist(), set(), tuple(score.shape), n)
    assert torch.equal(transposable(n).topk(score, (4 - n) / 4), as_mask(score.shape, chosen))


@given(st.data(), cases())
def test_grow(data, case):
    shape, n, level, target = case
    score, mask = data.draw(scores(shape)), data.draw(masks(shape))
    live = {index for index, alive in enumerate(mask.flatten().tolist()) if alive}
    chosen = grown(score.flatten().tolist(), live, shape, n, level, target)
    assert torch.equal(transposable(n).grow(score, mask, level), as_mask(shape, chosen))


@given(st.data(), cases(), levels, st.booleans())
def test_drop_and_grow(data, case, fraction, is_valid):
    shape, n, level, target = case
    structure = transposable(n)
    weight, growth = data.draw(scores(shape)), data.draw(scores(shape))
    mask = data.draw(masks(shape))
    if is_valid:
        mask = structure.topk(data.draw(scores(shape)), (4 - n) / 4)
    magnitudes = weight.abs().flatten().tolist()
    live = {index for index, alive in enumerate(mask.flatten().tolist()) if alive}
    of_live = [value if index in live else 0.0 for index, value in enumerate(magnitudes)]
    first = set()
    for tile in tiles_of(shape):
        first |= live & chosen_in(tile, of_live, n, frozenset(live & set(tile)))
    free_places = math.prod(shape) // 4 * n - len(first)
    stay = min(kept_exactly(fraction, len(live)), target - free_places)
    kept = ranked(magnitudes, first, live, stay)
    chosen = grown(growth.abs().flatten().tolist(), kept, shape, n, level, target)
    new = structure.drop_and_grow(weight, mask, level, fraction, growth)
    assert torch.equal(new, as_mask(shape, chosen))
    assert int(new.sum()) == target
    if level == (4 - n) / 4:
        assert_valid(new, n)
    if is_valid and level == (4 - n) / 4:
        assert int((mask & new).sum()) >= kept_exactly(fraction, len(live))


def test_every_remaining_connection_stays():
    generator = torch.Generator().manual_seed(0)
    structure, weight, growth = transposable(2), *torch.randn(2, 16, 16, generator=generator)
    mask = structure.topk(weight, 0.5, magnitude=True)
    kept, counts = structure.drop(weight.abs(), mask, 0.3)
    new = structure.drop_and_grow(weight, mask, 0.5, 0.3, growth)
    assert int(counts.sum()) == int(kept.sum()) == kept_exactly(0.3, 128)
    assert not (kept & ~new).any()
    assert torch.equal(new, structure.grow(growth.abs(), kept, 0.5))
    assert 0 < int((mask & ~new).sum()) <= 128 - int(kept.sum())


def test_ties_go_to_the_lower_indices():
    assert transposable(2).topk(torch.zeros(4, 4), 0.5).int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    # Sums that are equal, although float32 adds them to different numbers in some orders.
    score = torch.tensor([[2.0**24, 1, 0, 0], [1, 2.0**24, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert transposable(1).topk(score, 0.75).diagonal().all()


@pytest.mark.parametrize("scale", [1e-306, 1e-300, 1e-3, 1e300])
def test_scores_of_any_size(scale):
    """Use sizes up to those whose sums overflow, or whose power of two does."""
    score = torch.tensor([[0.0, 0, 8, 9], [0, 0, 8, 8], [0, 1, 0, 0], [1, 0, 0, 0]]).double()
    mask = choose_patterns((score * scale).reshape(1, 16), None, 1)
    assert mask.reshape(4, 4).fliplr().diagonal().all()
    largest = torch.full((4, 4), 1.7e308, dtype=torch.float64)
    largest[0, 0] = largest[1, 1] = 0
    assert not transposable(2).topk(largest, 0.5).diagonal()[:2].any()


def test_each_tile_alone_and_layouts():
    """Compare many tiles, which are scored in blocks, with each tile alone and other layouts."""
    generator = torch.Generator().manual_seed(1)
    score = torch.randn(4 * 75, 4 * 60, generator=generator)
    mask = transposable(2).topk(score, 0.5)
    for row, column in ((0, 0), (74, 59), (40, 17), (68, 16), (68, 15)):
        part = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        assert torch.equal(transposable(2).topk(score[part].clone(), 0.5), mask[part])
    assert torch.equal(transposable(2).topk(score.T.contiguous().T, 0.5), mask)
    assert_valid(mask, 2)


def test_infinite_scores_win():
    score = torch.full((4, 4), 1e30, dtype=torch.float64)
    score[0, 0] = math.inf
    score[3, 3] = -math.inf
    mask = transposable(1).topk(score, 0.75)
    assert mask[0, 0]
    assert not mask[3, 3]
    assert mask.sum() == 4


@pytest.mark.parametrize("shape", [(8, 8), (4, 8, 3, 3)])
def test_a_rising_level_ends_at_valid_tiles(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    structure = transposable(2)
    at_once = structure.topk(weight, 0.5, magnitude=True)
    for level in (0.0, 0.1, 0.3, 0.45, 0.5):
        mask = structure.topk(weight, level, magnitude=True)
        weight = weight * mask
        assert int(mask.sum()) == num_kept(level, weight.numel())
        assert not (at_once & ~mask).any()
    assert torch.equal(mask, at_once)
    assert_valid(mask, 2)


@given(st.data(), cases())
def test_a_dense_start_without_drops_is_topk(data, case):
    shape, n, level, _ = case
    weight, growth = data.draw(scores(shape)), data.draw(scores(shape))
    dense = torch.ones(shape, dtype=torch.bool)
    new = transposable(n).drop_and_grow(weight, dense, level, 0.0, growth)
    assert torch.equal(new, transposable(n).topk(weight, level, magnitude=True))


def test_keeps_at_least_as_much_as_any_row_by_row_choice_allows():
    """Compare with NM, whose masks are less restricted, and with one fixed valid mask."""
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).abs()
    fixed = transposable(2).topk(torch.zeros(32, 32), 0.5)
    kept = [float(weight[m].sum()) for m in (fixed, transposable(2).topk(weight, 0.5))]
    kept.append(float(weight[NM(2, 4).topk(weight, 0.5)].sum()))
    assert kept[0] < 0.8 * kept[1] < kept[1] < kept[2]


def test_the_same_errors_as_other_masks():
    weight = torch.ones(8, 4)
    weight[5, 1] = math.nan
    for level in (0.5, 0.25):
        with pytest.raises(ScoreError, match="NaN"):
            transposable(2).topk(weight, level)
    mask = transposable(2).topk(torch.ones(8, 4), 0.5)
    mask[5] = False
    new = transposable(2).grow(torch.ones(8, 4), mask, 0.5)
    dropped = transposable(2).drop_and_grow(weight, mask, 0.5, 0.3, torch.ones(8, 4))
    assert_valid(new, 2)
    assert_valid(dropped, 2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 8), r"shape \(6, 8\): its output dimension 6 is not divisible by 4, the size of a"),
        ((8, 6, 3), r"its input dimension 6 is not divisible by 4, the size of a tile$"),
        ((4,), r"shape \(4,\): it has no input dimension"),
    ],
)
def test_shapes_that_do_not_fit_raise(shape, message):
    for call in (transposable(2), lambda score: transposable(2).topk(score, 0.5)):
        with pytest.raises(ShapeError, match=message):
            call(torch.zeros(shape))


def test_shards_that_cut_through_tiles_raise():
    structure, shape = transposable(2), torch.Size([24, 8])
    assert structure.part(shape, 8, 8).units is None
    assert structure.part(shape, 24, 0).structure is structure
    message = (
        r"^a sharded weight of shape \(24, 8\): its shards have 6 rows, which cuts tiles of 4 rows "
        "apart; use a size that divides 6, or another number of ranks$"
    )
    for first in (0, 6):
        with pytest.raises(ShapeError, match=message):
            structure.part(shape, first, 6)


def test_options():
    with pytest.raises(
        OptionError,
        match=r"^m of a transposable structure must be 4; got 8\. The best pattern is found by "
        r"trying all patterns of a 4x4 tile\.$",
    ):
        NM(2, 8, transposable=True)
    with pytest.raises(
        OptionTypeError, match=r"^transposable must be True or False; got 'yes' \(str\)\.$"
    ):
        NM(2, 4, transposable="yes")
    made = make_structure({"type": "n_m", "n": 2, "m": 4, "transposable": True})
    assert repr(made) == "NM(2, 4, transposable=True)"
    assert repr(NM(2, 4)) == "NM(2, 4)"
    assert made.level(None) == 0.5


@pytest.mark.parametrize("method", [init.random, init.topk, init.checkerboard])
def test_initial_masks(method):
    assert_valid(method(torch.randn(8, 8, 3, 3), 0.5, transposable(2)), 2)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("algorithm", ["rigl", "set", "gmp", "ste"])
def test_every_update_of_a_training_run(algorithm, storage):
    config = {
        "algorithm": algorithm,
        "sparsity": {"type": "cubic", "init": 0.0, "final": 0.5, "begin": 0, "end": 4},
        "structure": {"type": "n_m", "n": 2, "m": 4, "transposable": True},
        "update": 2,
    }
    if algorithm != "ste":
        config["storage"] = storage
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(128, 16)
    )
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    seen = []
    for step in range(1, 13):
        optimizer.zero_grad()
        model(batch(step, 3, 4, 4, 4)).pow(2).mean().backward()
        optimizer.step()
        if step >= 4:
            for parameter in sparsity.sparse_params.values():
                assert_valid(parameter.mask, 2)
            seen.append(parameter.mask.clone())
    if algorithm in ("rigl", "set"):
        assert not torch.equal(seen[0], seen[-1])
