"""LAMP levels, compared with scores over exact sums, rounded once, and with sorted scores."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.twins import DTYPES, kept_exactly, levels, scores
from sparsewright.core.counts import num_kept
from sparsewright.distributions import global_magnitude, lamp
from sparsewright.errors import LevelError, ScoreError
from sparsewright.utils import make_mask_topk_sparsity


@st.composite
def layers(draw):
    """Draw up to four weights of different dtypes, with many ties, zeros and infinities."""
    shapes = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=4))
    return {
        str(i): draw(scores(tuple(shape), draw(st.sampled_from(DTYPES))))
        for i, shape in enumerate(shapes)
    }


@st.composite
def wide_layers(draw):
    """Draw weights whose magnitudes differ by many orders, from 1e-30 to 1e30."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    spread = draw(st.sampled_from([0, 1, 8, 30]))
    found = {}
    for number, size in enumerate(sizes):
        power = (torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1) * spread
        values = torch.randn(size, generator=generator, dtype=torch.float64) * 10**power
        found[str(number)] = values.to(draw(st.sampled_from([torch.float32, torch.float64])))
    return found


def ranked(weights):
    """Return `(score, layer, flat index)` of every entry in the order in which they are kept.

    Squares and their sums are float64: a square that a sum absorbs does not change the score.
    """
    found = []
    for number, weight in enumerate(weights.values()):
        flat = [min(abs(value), 2.0**500) for value in weight.flatten().tolist()]
        order = sorted(range(len(flat)), key=lambda index: (-flat[index], index))
        total = Fraction(0)
        for index in order:
            square = Fraction(flat[index] ** 2)
            total += square
            rounded = Fraction(float(total))
            found.append((square / rounded if total else Fraction(0), number, index))
    # The sort is stable, so ties keep the order of layers, then of places.
    return sorted(found, key=lambda each: -each[0])


def check(weights, level):
    """Check the levels and, with masks by magnitude, the exact set of entries kept."""
    found = lamp(weights, level)
    total = kept_exactly(level, sum(w.numel() for w in weights.values()))
    chosen = {(layer, index) for _, layer, index in ranked(weights)[:total]}
    assert list(found) == list(weights)
    kept = 0
    for number, (name, weight) in enumerate(weights.items()):
        mask = make_mask_topk_sparsity(weight.abs(), found[name]).flatten()
        assert {(number, i) for i in mask.nonzero()[:, 0].tolist()} == {
            each for each in chosen if each[0] == number
        }
        kept += int(mask.sum())
    assert kept == total


ABSORBED = {"0": torch.tensor([0.0, 1, 1, 1, math.inf]), "1": torch.tensor([1.0, math.inf])}


@given(layers(), levels)
@example(ABSORBED, 0.3)
def test_the_largest_scores_of_all_layers_stay(weights, level):
    check(weights, level)


@given(wide_layers(), levels)
def test_weights_of_any_magnitude(weights, level):
    check(weights, level)


@given(wide_layers(), levels)
def test_it_is_exact_in_total_and_free_of_scale_and_order(weights, level):
    found = lamp(weights, level)
    kept = sum(num_kept(found[name], weight.numel()) for name, weight in weights.items())
    assert kept == num_kept(level, sum(weight.numel() for weight in weights.values()))
    scaled = {name: weight * 2.0 ** (int(name) - 3) for name, weight in weights.items()}
    assert lamp(scaled, level) == found
    flipped = {name: -weight.flip(0) for name, weight in weights.items()}
    assert lamp(flipped, level) == found


@given(st.data(), levels)
def test_over_one_layer_it_is_magnitude(data, level):
    weights = {"only": data.draw(scores((4, 5)))}
    assert lamp(weights, level) == global_magnitude(weights, level)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9, 0.98, 1.0])
def test_large_layers_equal_sorted_float64_scores(level):
    generator = torch.Generator().manual_seed(2)
    weights = {str(i): torch.randn(500, 90, generator=generator) * (i + 1) for i in range(5)}
    weights["pruned"] = weights["0"] * (torch.rand(500, 90, generator=generator) < 0.1)
    weights["equal"] = torch.ones(1000)
    weights["whole"] = torch.randint(-4, 5, (30, 1000), generator=generator).float()
    parts = []
    for weight in weights.values():
        squares = weight.double().flatten().square().sort().values
        sums = squares.flip(0).cumsum(0).flip(0)
        parts.append(squares / sums.clamp(min=1e-300))
    found = lamp(weights, level)
    flat = torch.cat(parts)
    mask = make_mask_topk_sparsity(flat, level)
    expected = [int(part.sum()) for part in mask.split([w.numel() for w in weights.values()])]
    assert [num_kept(found[name], w.numel()) for name, w in weights.items()] == expected


def test_every_layer_keeps_its_largest_weight():
    weights = {"small": torch.full((3,), 1e-20), "large": torch.randn(50, 2)}
    assert num_kept(lamp(weights, 0.95)["small"], 3) >= 1
    assert global_magnitude(weights, 0.95)["small"] == 1.0


def test_pruned_entries_do_not_count():
    """Prune in two rounds: the second sees the scores among the survivors."""
    generator = torch.Generator().manual_seed(5)
    weights = {str(i): torch.randn(40, 5, generator=generator) * (i + 1) for i in range(3)}
    first = lamp(weights, 0.5)
    masks = {n: make_mask_topk_sparsity(w, first[n], magnitude=True) for n, w in weights.items()}
    pruned = {name: weight * masks[name] for name, weight in weights.items()}
    alive = {name: weight[masks[name]] for name, weight in weights.items()}
    again, among = lamp(pruned, 0.8), lamp(alive, 0.6)
    for name, weight in weights.items():
        kept = num_kept(again[name], weight.numel())
        assert kept == num_kept(among[name], alive[name].numel()) <= int(masks[name].sum())


def test_zeros_come_last_and_those_of_earlier_layers_first():
    weights = {"a": torch.zeros(4), "b": torch.tensor([1.0, 0.0, 2.0]), "none": torch.ones(0, 2)}
    assert lamp(weights, 4 / 7) == {"a": 0.75, "b": 1 / 3, "none": 0.0}
    assert lamp(weights, 1.0) == {"a": 1.0, "b": 1.0, "none": 0.0}
    assert lamp({}, 0.5) == {}


def test_equal_layers_keep_the_earlier_one():
    weight = torch.tensor([3.0, 1.0, 2.0])
    weights = {"first": weight, "second": weight.flip(0).double()}
    assert lamp(weights, 0.5) == {"first": 1 / 3, "second": 2 / 3}


def test_complex_and_strided_weights():
    weights = {"a": torch.tensor([3 + 4j, 1j, 2]), "b": torch.randn(6, 4).T[::2]}
    real = {"a": torch.tensor([5.0, 1.0, 2.0]), "b": weights["b"].contiguous()}
    for level in (0.2, 0.5, 0.8):
        assert lamp(weights, level) == lamp(real, level)


def test_bad_weights_and_levels_raise():
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])}
    with pytest.raises(ScoreError, match=r"^b contains NaN; its entries cannot be ranked$"):
        lamp(weights, 0.5)
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 2\.$"):
        lamp({"a": torch.ones(2)}, 2)


def test_gmp_recomputes_levels_from_the_live_weights():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 4))
    rising = {"type": "linear", "init": 0.2, "slope": 0.2}
    sparsity = sparse.GMP(rising, update=1, distribution="lamp")
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    sparsity.apply(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
        params = sparsity.sparse_params.values()
        level = sparsity.algorithms[0].schedules.value("sparsity", step + 1)
        assert sum(p.kept for p in params) == num_kept(level, 720)
