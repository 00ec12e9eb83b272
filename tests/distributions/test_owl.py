"""OWL levels, compared with the paper's formula and with a bisection for clipped densities."""

import math
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.distributions import make_distribution, owl
from sparsewright.errors import LevelError, OptionError, OptionTypeError, ScoreError

SHAPES = {"0": [(4, 5), (3,)], "1": [(2, 2)], "2": [(6, 3, 1), (1, 2)], "3": [(30,)]}


@st.composite
def blocks(draw):
    """Draw scores of one to four blocks, many of them outliers."""
    number, seed = draw(st.integers(1, 4)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    return {
        name: [torch.rand(shape, generator=generator).pow(8) for shape in shapes]
        for name, shapes in list(SHAPES.items())[:number]
    }


def shares_of(scores, m):
    found = []
    for each in scores.values():
        flat = [value for score in each for value in score.double().flatten().tolist()]
        found.append(sum(value > m * math.fsum(flat) / len(flat) for value in flat) / len(flat))
    return found


@given(blocks(), st.floats(0.2, 0.8), st.sampled_from([2, 3, 5]), st.floats(0, 0.1))
def test_levels_are_those_of_the_paper(scores, sparsity, m, spread):
    found = owl(scores, sparsity, m=m, spread=spread)
    shares = shares_of(scores, m)
    low, high = min(shares), max(shares)
    raw = [(s - low) / (high - low) * 2 * spread if high > low else 0.0 for s in shares]
    shift = fmean(raw) - (1 - sparsity)
    assert list(found) == list(scores)
    assert list(found.values()) == pytest.approx([1 - (each - shift) for each in raw], abs=1e-12)


@given(blocks(), st.floats(0, 1), st.floats(0, 1))
def test_clipped_densities_keep_the_mean_and_the_order(scores, sparsity, spread):
    found = list(owl(scores, sparsity, m=2, spread=spread).values())
    assert all(0 <= each <= 1 for each in found)
    assert fmean(found) == pytest.approx(sparsity, abs=1e-9)
    shares = shares_of(scores, 2)
    low, high = min(shares), max(shares)
    if low == high:
        assert found == [sparsity] * len(found)
        return
    raw = [(s - low) / (high - low) * 2 * spread for s in shares]
    below, above = -3.0, 3.0
    for _ in range(100):
        middle = (below + above) / 2
        clipped = fmean(min(max(each + middle, 0), 1) for each in raw)
        below, above = (middle, above) if clipped < 1 - sparsity else (below, middle)
    assert found == pytest.approx([1 - min(max(r + above, 0), 1) for r in raw], abs=1e-9)


def test_blocks_count_once_whatever_their_size():
    scores = {"small": [torch.tensor([0.0, 0.0, 0.0, 1.0])], "large": [torch.ones(1000, 10)]}
    found = owl(scores, 0.6, m=3, spread=0.1)
    assert found == pytest.approx({"small": 0.5, "large": 0.7})


def test_equal_shares_are_uniform():
    scores = {name: [torch.tensor([0.0, 0.0, 0.0, size])] for name, size in (("a", 1), ("b", 9))}
    assert owl(scores, 0.7, m=3) == {"a": 0.7, "b": 0.7}
    assert owl({"zeros": [torch.zeros(3)], "ones": [torch.ones(3)]}, 0.25) == {
        "zeros": 0.25,
        "ones": 0.25,
    }
    assert owl({}, 0.5) == {}


def test_a_score_at_the_bar_is_no_outlier():
    at = {"at": [torch.tensor([0.0, 0.0, 0.0, 4.0])], "under": [torch.ones(4)]}
    assert owl(at, 0.5, m=4) == {"at": 0.5, "under": 0.5}
    assert owl(at, 0.5, m=3.999)["at"] == pytest.approx(0.42)


def test_bars_between_two_scores_are_not_rounded():
    """Compare 2050 with the bar 2049.5, which float16 would round to 2050."""
    scores = {"over": [torch.tensor([2050.0, 1025.0, 1024.0, 0.0]).half()]}
    scores["under"] = [torch.ones(4).half()]
    assert owl(scores, 0.5, m=2) == pytest.approx({"over": 0.42, "under": 0.58})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sums_of_any_type_are_exact_enough(dtype):
    scores = {"a": [torch.full((300, 300), 4.0, dtype=dtype).T], "b": [torch.ones(9, dtype=dtype)]}
    scores["a"][0][0, 0] = 100
    found = owl(scores, 0.5)
    assert found == pytest.approx({"a": 0.42, "b": 0.58})


def test_levels_can_be_passed_to_an_algorithm():
    scores = {"0": [torch.tensor([0.0, 0.0, 0.0, 1.0])], "2": [torch.ones(4)]}
    levels = owl(scores, 0.6, m=3, spread=0.1)
    made = make_distribution({"layers": {f"{block}.*": level for block, level in levels.items()}})
    shapes = {"0.weight": torch.Size([4]), "2.weight": torch.Size([4])}
    assert made(shapes, 0.6, None) == pytest.approx({"0.weight": 0.5, "2.weight": 0.7})


def test_bad_scores_and_options_raise():
    scores = {"a": [torch.ones(2)], "b": [torch.tensor([1.0, math.nan])]}
    with pytest.raises(ScoreError, match=r"^the scores of b contains? NaN"):
        owl(scores, 0.5)
    with pytest.raises(OptionError, match=r"^scores must be at least one score for the block 'b'"):
        owl({"a": [torch.ones(2)], "b": [torch.ones(0, 3)]}, 0.5)
    with pytest.raises(LevelError, match=r"^spread must be between 0 and 1; got 2\.$"):
        owl({"a": [torch.ones(2)]}, 0.5, spread=2)
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got -1\.$"):
        owl({"a": [torch.ones(2)]}, -1)
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(OptionError, match=r"^m must be a number > 0; got "):
            owl({"a": [torch.ones(2)]}, 0.5, m=wrong)
    with pytest.raises(OptionTypeError, match=r"^m must be a number > 0; got '5' \(str\)\.$"):
        owl({"a": [torch.ones(2)]}, 0.5, m="5")
