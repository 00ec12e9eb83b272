"""ER levels, compared with the published rule in exact fractions and with SET's counts."""

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.level_twins import (
    budget_of,
    channel_ratio,
    density_sum,
    published,
    shapes_of_layers,
)
from helpers.twins import levels
from sparsewright.core.counts import num_kept
from sparsewright.distributions import er, erk
from sparsewright.errors import (
    ExclusiveOptionsError,
    IncompatibleOptionError,
    LevelError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
)

matrices = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6).map(
    lambda shapes: {str(number): shape for number, shape in enumerate(shapes)}
)


@given(shapes_of_layers, levels)
def test_levels_are_the_published_ones(shapes, level):
    found, expected = er(shapes, level), published(shapes, level, ratio=channel_ratio)
    assert list(found) == list(shapes)
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-12)
    assert density_sum(shapes, found) == pytest.approx(budget_of(shapes, level), rel=1e-9)


@given(shapes_of_layers, levels, st.booleans())
def test_dense_layers_and_budgets(shapes, level, count_all):
    name, *others = shapes
    budget = "all" if count_all else "each"
    free = sum(math.prod(shapes[each]) for each in others)
    total = free + math.prod(shapes[name])
    if count_all and level * total > free:
        with pytest.raises(
            LevelError, match=r"^sparsity must be at most .* some layers stay dense"
        ):
            er(shapes, level, dense=name, budget=budget)
        return
    found = er(shapes, level, dense=name, budget=budget)
    expected = published(shapes, level, [name], count_all, channel_ratio)
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-12)


@given(matrices, levels)
def test_er_of_matrices_equals_erk(shapes, level):
    assert er(shapes, level) == pytest.approx(erk(shapes, level), abs=1e-12)


def test_kernel_sizes_do_not_count():
    pair = [{"a": (30, 20, size, size), "b": (30, 20, size, size)} for size in (1, 5)]
    assert er(pair[0], 0.7) == pytest.approx(er(pair[1], 0.7), abs=1e-12)
    mixed = {"conv": (30, 20, 3, 3), "matrix": (30, 20)}
    assert er(mixed, 0.7)["conv"] == pytest.approx(er(mixed, 0.7)["matrix"])
    assert erk(mixed, 0.7)["conv"] > erk(mixed, 0.7)["matrix"]


@given(matrices, st.integers(1, 30))
def test_epsilon_keeps_the_connections_of_set(shapes, epsilon):
    """Keep `epsilon * (out + in)` connections of each layer, as in arXiv:1707.04780."""
    found = er(shapes, epsilon=epsilon)
    for name, (out, inputs) in shapes.items():
        expected = min(epsilon * (out + inputs), out * inputs)
        assert num_kept(found[name], out * inputs) == expected


@given(shapes_of_layers, st.floats(0.01, 50))
def test_epsilon_is_the_factor(shapes, epsilon):
    found = er(shapes, epsilon=epsilon)
    for name, shape in shapes.items():
        density = min(epsilon * float(channel_ratio(shape)), 1)
        assert found[name] == pytest.approx(1 - density, abs=1e-12)


def test_layers_at_the_cap_are_logged(caplog):
    shapes = {"wide": (300, 700), "head": (10, 300), "vector": (8,), "stem": (4, 4)}
    with caplog.at_level(logging.INFO, "sparsewright"):
        found = er(shapes, epsilon=20, dense="stem")
        er(shapes, 0.9, dense="stem")
        er({"wide": (300, 700)}, epsilon=20)
    assert found["head"] == found["vector"] == found["stem"] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "er with epsilon=20: these layers stay dense, because their density would exceed 1: "
        "head, vector"
    ]


def test_an_algorithm_with_epsilon_does_not_use_its_level():
    kept = []
    for level in (0.5, 0.99):
        model = torch.nn.Sequential(torch.nn.Linear(100, 60), torch.nn.Linear(60, 60))
        sparsity = sparse.SET(sparsity=level, update=5, distribution={"type": "er", "epsilon": 2})
        sparsity.apply(model)
        kept.append([p.kept for p in sparsity.sparse_params.values()])
    assert kept == [[320, 240]] * 2


EPSILON = {"type": "er", "epsilon": 2}


@pytest.mark.parametrize("cls", [sparse.Static, sparse.SET, sparse.RigL, sparse.STE])
def test_with_epsilon_no_level_is_needed(cls):
    model = torch.nn.Sequential(torch.nn.Linear(100, 60), torch.nn.Linear(60, 60))
    sparsity = cls(distribution=EPSILON)
    sparsity.apply(model)
    assert [p.kept for p in sparsity.sparse_params.values()] == [320, 240]
    text = f"{cls.__name__}(distribution=ER(epsilon=2, dense=(), budget='each'))"
    assert repr(sparsity) == text
    assert repr(eval(text, {cls.__name__: cls, "ER": sparse.distributions.ER})) == text
    (own,) = sparse.configure({"algorithm": cls.name, "distribution": EPSILON}).algorithms
    assert repr(own) == text
    with pytest.raises(
        MissingOptionError, match=r"^distribution=ERK\(.*\) needs the option 'sparsity': a number"
    ):
        sparsity.distribution = "erk"
    with pytest.raises(MissingOptionError, match=rf"^{cls.__name__} needs the option 'sparsity': "):
        cls(distribution="er")


def test_a_rising_level_does_not_log_again(caplog):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 300))
    rising = {"type": "linear", "init": 0.1, "slope": 0.1}
    sparsity = sparse.GMP(rising, update=1, distribution={"type": "er", "epsilon": 3})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparsity.apply(model)
        sparsity.apply(optimizer)
        first = sum("density would exceed 1" in text for text in caplog.messages)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
    assert 1 <= first <= 2
    assert sum("density would exceed 1" in text for text in caplog.messages) == first
    assert [p.kept for p in sparsity.sparse_params.values()] == [16, 3 * 304]


def test_scheduled_levels_and_empty_weights():
    shapes = {"a": (10, 20), "none": (0, 5), "scalar": (), "b": torch.Size([7, 3])}
    assert er(shapes, torch.tensor(0.3)) == er(shapes, 0.3)
    for found in (er(shapes, 0.3), er(shapes, epsilon=0.5)):
        assert all(0 <= each <= 1 for each in found.values())
    assert er({}, 0.5) == er({}, epsilon=20) == {}


def test_bad_options_raise():
    shapes = {"a": (4, 4)}
    with pytest.raises(MissingOptionError, match=r"^er needs a level or epsilon\.$"):
        er(shapes)
    with pytest.raises(ExclusiveOptionsError, match=r"^give sparsity or epsilon, not both\.$"):
        er(shapes, 0.5, epsilon=20)
    with pytest.raises(IncompatibleOptionError, match=r"^budget='all' does not work with epsilon"):
        er(shapes, epsilon=20, budget="all")
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(OptionError, match=r"^epsilon must be a number > 0; got "):
            er(shapes, epsilon=wrong)
    with pytest.raises(OptionTypeError, match=r"^epsilon must be a number > 0; got '20' \(str\)"):
        er(shapes, epsilon="20")
    with pytest.raises(OptionError, match=r"^dense must be a glob that matches a sparse weight"):
        er(shapes, epsilon=20, dense="b")
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 1\.5\.$"):
        er(shapes, 1.5)
