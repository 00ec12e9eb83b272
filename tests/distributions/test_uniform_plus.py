"""Uniform+ levels, compared with counts by the rule in fractions."""

import math
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.level_twins import shapes_of_layers
from helpers.twins import levels
from sparsewright.core.counts import num_kept
from sparsewright.distributions import uniform, uniform_plus
from sparsewright.errors import LevelError


def by_the_rule(shapes, level):
    """Return the number of entries pruned in each layer, in fractions; None if impossible."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    pruned, left = [None] * len(sizes), Fraction(str(level)) * sum(sizes)
    if len(next(iter(shapes.values()))) > 2:
        pruned[0] = Fraction(0)
    while True:
        free = [place for place, number in enumerate(pruned) if number is None]
        among = sum(sizes[place] for place in free)
        if not free:
            return pruned if left == 0 else None
        share = left / among
        most = sizes[-1] - math.floor(Fraction(sizes[-1], 5) + Fraction(1, 2))
        if pruned[-1] is None and share * sizes[-1] > most:
            pruned[-1] = Fraction(most)
            left -= most
            continue
        if share > 1:
            return None
        for place in free:
            pruned[place] = share * sizes[place]
        return pruned


@given(shapes_of_layers, levels)
def test_levels_are_those_of_the_rule(shapes, level):
    expected = by_the_rule(shapes, level)
    if expected is None:
        with pytest.raises(
            LevelError, match=r"^sparsity must be at most [\d.]+, because "
        ) as raised:
            uniform_plus(shapes, level)
        nearest = float(re.search(r"at most ([\d.]+),", str(raised.value))[1])
        assert nearest < level
        assert by_the_rule(shapes, nearest + 2e-6) is None
        uniform_plus(shapes, nearest)
        return
    found = uniform_plus(shapes, level)
    assert list(found) == list(shapes)
    for (name, shape), pruned in zip(shapes.items(), expected, strict=True):
        assert found[name] * math.prod(shape) == pytest.approx(float(pruned), abs=1e-9)
    total = sum(math.prod(shape) for shape in shapes.values())
    kept = sum(num_kept(found[name], math.prod(shape)) for name, shape in shapes.items())
    assert num_kept(level, total) - len(shapes) <= kept <= num_kept(level, total)


@given(shapes_of_layers, levels)
def test_the_last_layer_keeps_a_fifth(shapes, level):
    try:
        found = uniform_plus(shapes, level)
    except LevelError:
        return
    name, shape = list(shapes.items())[-1]
    size = math.prod(shape)
    assert num_kept(found[name], size) >= round(size / 5)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.floats(0, 0.5),
)
def test_it_is_uniform_without_a_convolution_at_low_levels(shapes, level):
    shapes = {str(number): shape for number, shape in enumerate(shapes)}
    if round(math.prod(list(shapes.values())[-1]) / 5) <= 0.5 * math.prod(shapes[str(0)]):
        shapes["last"] = (10, 10)
        assert uniform_plus(shapes, level) == pytest.approx(uniform(shapes, level), abs=1e-12)


@pytest.mark.parametrize(
    ("shapes", "level", "reason"),
    [
        (
            {"stem": (8, 3, 3, 3), "body": (10, 10), "head": (10, 10)},
            0.9,
            "at most 0.432692, because the first layer, a convolution, stays dense and the last "
            "layer keeps 20%; got 0.9.",
        ),
        ({"head": (10, 10)}, 0.85, "at most 0.8, because the last layer keeps 20%; got 0.85."),
        (
            {"stem": (8, 3, 3, 3)},
            0.1,
            "at most 0, because the first layer, a convolution, stays dense; got 0.1.",
        ),
    ],
)
def test_an_impossible_level_names_the_highest_possible_one(shapes, level, reason):
    with pytest.raises(LevelError, match="^" + re.escape(f"sparsity must be {reason}") + "$"):
        uniform_plus(shapes, level)


def test_a_first_matrix_is_not_dense_and_order_counts():
    conv, matrix, other = (16, 8, 3, 3), (40, 40), (30, 50)
    found = uniform_plus({"conv": conv, "matrix": matrix, "last": other}, 0.5)
    assert found["conv"] == 0
    assert found["matrix"] == found["last"] > 0.5
    found = uniform_plus({"matrix": matrix, "conv": conv, "last": other}, 0.5)
    assert set(found.values()) == {0.5}


def test_nothing_and_empty_weights():
    assert uniform_plus({}, 0.5) == {}
    assert uniform_plus({"none": (0, 4), "a": (4, 5), "last": (0, 3)}, 0.5)["a"] == 0.5
    assert uniform_plus({"a": (4, 5), "b": (5, 4)}, torch.tensor(0.3))["b"] == 0.3


def test_gmp_reaches_its_last_level_and_refuses_a_level_out_of_reach():
    def model():
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Linear(10, 10)
        )

    cubic = {"type": "cubic", "init": 0.0, "final": 0.5, "begin": 0, "end": 4}
    sparsity = sparse.GMP(cubic, update=2, distribution="uniform_plus")
    sparsity.apply(model())
    kept = sparsity.algorithms[0].level_bounds(sparsity.sparse_params["1.weight"])
    assert kept[-1] == pytest.approx(0.5 * (216 + 576 + 100) / 676)
    sparsity = sparse.GMP({**cubic, "final": 0.9}, update=2, distribution="uniform_plus")
    with pytest.raises(LevelError, match=r"^sparsity must be at most 0\.735426, because the first"):
        sparsity.apply(model())
