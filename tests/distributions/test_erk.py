"""ERK levels, compared with the published rule in exact fractions and with published costs."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.level_twins import budget_of, density_sum, published, shapes_of_layers
from helpers.twins import levels
from sparsewright.core.counts import num_kept
from sparsewright.distributions import erk, uniform
from sparsewright.errors import LevelError, OptionError, OptionTypeError


@given(shapes_of_layers, levels)
def test_it_is_the_published_rule(shapes, level):
    found, expected = erk(shapes, level), published(shapes, level)
    assert list(found) == list(shapes)
    for name in shapes:
        assert found[name] == pytest.approx(float(expected[name]), abs=1e-12)


@given(shapes_of_layers, levels, st.sampled_from([0, 0.3, 0.5, 1.0, 2]))
def test_levels_sum_to_the_budget(shapes, level, power):
    found = erk(shapes, level, power=power)
    assert all(0 <= each <= 1 for each in found.values())
    assert density_sum(shapes, found) == pytest.approx(budget_of(shapes, level), rel=1e-9)
    kept = sum(num_kept(found[name], math.prod(shape)) for name, shape in shapes.items())
    assert budget_of(shapes, level) - len(shapes) <= kept <= budget_of(shapes, level)


@given(shapes_of_layers, levels, st.booleans())
def test_layers_that_stay_dense(shapes, level, count_all):
    name = next(iter(shapes))
    size, total = math.prod(shapes[name]), sum(map(math.prod, shapes.values()))
    budget = "all" if count_all else "each"
    if count_all and Fraction(str(level)) * total > total - size:
        with pytest.raises(LevelError, match=r"must be at most .* stay dense; got") as raised:
            erk(shapes, level, dense=name, budget=budget)
        most = float(str(raised.value).partition("at most ")[2].partition(",")[0])
        assert 0 <= Fraction(total - size, total) - Fraction(str(most)) < Fraction(1, 10**6)
        erk(shapes, most, dense=name, budget=budget)
        return
    found = erk(shapes, level, dense=[name], budget=budget)
    expected = published(shapes, level, [name], count_all)
    assert found[name] == 0
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-12)
    if count_all:
        assert density_sum(shapes, found) == pytest.approx(budget_of(shapes, level), rel=1e-9)


def test_wide_layers_are_sparser_and_small_ones_dense():
    found = erk({"wide": (1000, 1000), "small": (10, 10), "depthwise": (64, 1, 3, 3)}, 0.9)
    assert found["small"] == found["depthwise"] == 0
    assert 0.9 < found["wide"] < 1


def test_equal_square_layers_are_uniform():
    shapes = {f"{number}": (20, 20) for number in range(3)}
    for level in (0.0, 0.25, 0.9, 1.0):
        assert erk(shapes, level) == pytest.approx(uniform(shapes, level), abs=1e-12)


def test_no_power_is_uniform():
    shapes = {"a": (20, 10), "b": (5, 8)}
    assert erk(shapes, 0.5, power=0) == pytest.approx(uniform(shapes, 0.5), abs=1e-12)


def test_layers_of_equal_ratio_become_dense_together():
    shapes = {"a": (4, 6), "b": (6, 4), "large": (200, 300)}
    found = erk(shapes, 0.9)
    assert found["a"] == found["b"] == 0


def resnet50():
    """Return the shapes of the 54 weights, and the multiplications of each at 224 pixels."""
    shapes, cost = {}, {}

    def add(name, out, inputs, kernel, side):
        shapes[name] = (out, inputs, kernel, kernel)
        cost[name] = out * inputs * kernel**2 * side**2

    add("stem", 64, 3, 7, 112)
    inputs, side = 64, 56
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            after = side // 2 if stage and not block else side
            add(f"{stage}.{block}.conv1", width, inputs, 1, side)
            add(f"{stage}.{block}.conv2", width, width, 3, after)
            add(f"{stage}.{block}.conv3", 4 * width, width, 1, after)
            if not block:
                add(f"{stage}.{block}.downsample", 4 * width, inputs, 1, after)
            inputs, side = 4 * width, after
    shapes["fc"], cost["fc"] = (1000, 2048), 1000 * 2048
    return shapes, cost


@pytest.mark.parametrize(
    ("level", "of_erk", "of_uniform"), [(0.8, 0.41, 0.22), (0.9, 0.24, 0.13), (0.95, 0.12, 0.08)]
)
def test_the_published_costs_of_resnet50(level, of_erk, of_uniform):
    """Compare the FLOPs relative to a dense forward pass with arXiv:1911.11134."""
    shapes, cost = resnet50()
    assert len(shapes) == 54

    def share(found):
        return sum((1 - found[name]) * cost[name] for name in shapes) / sum(cost.values())

    assert round(share(erk(shapes, level)), 2) == of_erk
    assert round(share(uniform(shapes, level, dense="stem")), 2) == of_uniform


def test_scheduled_levels_and_empty_weights():
    shapes = {"a": (10, 20), "none": (0, 5), "b": torch.Size([7, 3])}
    assert erk(shapes, torch.tensor(0.3)) == erk(shapes, 0.3)
    assert 0 <= erk(shapes, 0.3)["none"] <= 1
    assert erk({}, 0.5) == {}


def test_bad_options_raise():
    shapes = {"conv1.weight": (4, 4), "fc.weight": (8, 4)}
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 1\.5\.$"):
        erk(shapes, 1.5)
    with pytest.raises(
        OptionError, match=r"^dense must be a glob that matches a sparse weight; got 'conv2"
    ):
        erk(shapes, 0.5, dense="conv2.*")
    with pytest.raises(OptionError, match=r"Similar names: conv1\.weight, fc\.weight\.$"):
        erk(shapes, 0.5, dense=["conv1.wieght"])
    with pytest.raises(OptionTypeError, match=r"^dense must be a glob or a list of globs; got 3"):
        erk(shapes, 0.5, dense=3)
    with pytest.raises(OptionError, match=r"^unknown budget 'sparse'; choose from each, all\.$"):
        erk(shapes, 0.5, budget="sparse")
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(OptionError, match=r"^power must be a number >= 0; got "):
            erk(shapes, 0.5, power=wrong)
    with pytest.raises(OptionTypeError, match=r"^power must be a number >= 0; got '1' \(str\)\.$"):
        erk(shapes, 0.5, power="1")
