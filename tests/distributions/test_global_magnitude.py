"""Global magnitude levels, compared with one sorted list of all weights."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.twins import DTYPES, best, kept_exactly, levels, scores
from sparsewright.core.counts import num_kept
from sparsewright.distributions import global_magnitude
from sparsewright.errors import LevelError, OptionError, ScoreError
from sparsewright.utils import make_mask_topk_sparsity


@st.composite
def layers(draw):
    """Draw up to four weights of one dtype, with many ties."""
    dtype = draw(st.sampled_from(DTYPES))
    shapes = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=4))
    return {str(i): draw(scores(tuple(shape), dtype)) for i, shape in enumerate(shapes)}


def counts_of(weights, level, minimum=0.0):
    """Count the entries to keep in each layer; the layer minimum comes before all others."""
    flat = [abs(value) for weight in weights.values() for value in weight.flatten().tolist()]
    total, layers, chosen = kept_exactly(level, len(flat)), [], set()
    for weight in weights.values():
        first = layers[-1].stop if layers else 0
        layers.append(range(first, first + weight.numel()))
        least = weight.numel() - kept_exactly(minimum, weight.numel())
        chosen |= best(flat, list(layers[-1]), least)
    if len(chosen) > total:
        return None
    rest = [index for index in range(len(flat)) if index not in chosen]
    chosen |= best(flat, rest, total - len(chosen))
    return [len(chosen.intersection(layer)) for layer in layers]


@given(layers(), levels)
def test_the_largest_of_all_layers_stay(weights, level):
    found = global_magnitude(weights, level)
    kept = [num_kept(found[name], weight.numel()) for name, weight in weights.items()]
    assert kept == counts_of(weights, level)
    assert sum(kept) == kept_exactly(level, sum(w.numel() for w in weights.values()))


@given(layers(), levels, st.sampled_from([0.01, 0.1, 0.25, 0.5]))
def test_every_layer_keeps_a_minimum(weights, level, minimum):
    expected = counts_of(weights, level, minimum)
    if expected is None:
        with pytest.raises(
            LevelError, match=r"must be at most .*, because every layer keeps at least"
        ):
            global_magnitude(weights, level, minimum=minimum)
        return
    found = global_magnitude(weights, level, minimum=minimum)
    assert [num_kept(found[name], weight.numel()) for name, weight in weights.items()] == expected


@given(st.integers(1, 10**8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
@example((10**8, 1))
@example((10**8 - 1, 33333333))
def test_a_level_gives_back_its_count(case):
    """Check levels of the form `(n - count) / n` in float64."""
    n, count = case
    level = (n - count) / n
    assert num_kept(level, n) == num_kept(torch.tensor(level, dtype=torch.float64), n) == count


@given(st.data(), levels)
def test_over_one_layer_it_is_topk(data, level):
    weight = data.draw(scores((4, 5)))
    found = global_magnitude({"only": weight}, level)["only"]
    masks = [make_mask_topk_sparsity(weight, each, magnitude=True) for each in (found, level)]
    assert torch.equal(*masks)


def test_of_equal_weights_those_of_the_earlier_layer_stay():
    weights = {name: torch.ones(2, 2) for name in "abc"}
    assert global_magnitude(weights, 0.5) == {"a": 0.0, "b": 0.5, "c": 1.0}


@pytest.mark.parametrize(("normalize", "order"), [("l2", 2), ("mean", 1)])
def test_a_scale_does_not_matter_to_normalized_weights(normalize, order):
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(30, 20, generator=generator)}
    weights["b"] = torch.rand(10, 40, generator=generator)
    scaled = {"a": weights["a"] / 64, "b": weights["b"] * 8}
    found = global_magnitude(weights, 0.7, normalize=normalize)
    assert found == global_magnitude(scaled, 0.7, normalize=normalize)
    assert found != global_magnitude(weights, 0.7)
    parts = []
    for weight in weights.values():
        total = weight.double().abs().pow(order).sum()
        norm = total.sqrt() if order == 2 else total / weight.numel()
        parts.append((weight.abs() / norm.float()).flatten())
    flat = torch.cat(parts)
    chosen = make_mask_topk_sparsity(flat, 0.7)
    kept = [num_kept(found[name], w.numel()) for name, w in weights.items()]
    assert kept == [int(chosen[:600].sum()), int(chosen[600:].sum())]


def test_layers_of_several_types_compare_by_value():
    weights = {"half": torch.tensor([1.0, 3.0]).half(), "double": torch.tensor([2.0, 4.0]).double()}
    weights["bfloat16"] = torch.tensor([5.0, 0.5]).bfloat16()
    assert global_magnitude(weights, 0.5) == {"half": 0.5, "double": 0.5, "bfloat16": 0.5}


def test_complex_weights_compare_by_magnitude():
    weights = {"a": torch.tensor([3 + 4j, 0j]), "b": torch.tensor([4.0, 1.0])}
    for normalize in ("none", "mean"):
        assert global_magnitude(weights, 0.75, normalize=normalize)["a"] == 0.5


def test_layers_of_zeros_and_none_at_all():
    assert global_magnitude({}, 0.5) == {}
    for normalize in ("none", "l2", "mean"):
        weights = {"zeros": torch.zeros(2, 2), "ones": torch.ones(2, 2), "empty": torch.ones(0, 3)}
        found = global_magnitude(weights, 0.5, normalize=normalize)
        assert found == {"zeros": 1.0, "ones": 0.0, "empty": 0.0}


def test_bad_weights_and_options_raise():
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])}
    for options in ({}, {"normalize": "l2"}, {"minimum": 0.1}):
        with pytest.raises(ScoreError, match="b contains NaN"):
            global_magnitude(weights, 0.1, **options)
    with pytest.raises(OptionError, match=r"^normalize must be 'none', 'l2' or 'mean'; got 'l3'"):
        global_magnitude(weights, 0.5, normalize="l3")
    with pytest.raises(LevelError, match=r"^minimum must be between 0 and 1; got 2\.$"):
        global_magnitude(weights, 0.5, minimum=2)
    with pytest.raises(
        LevelError, match=r"at most 0\.5, because every layer keeps .* 0\.5 .* got 0\.9"
    ):
        global_magnitude({"a": torch.ones(4)}, 0.9, minimum=0.5)


def test_apply_refuses_a_last_level_that_the_minimum_does_not_allow():
    model = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 10))
    rising = {"type": "linear", "init": 0.0, "slope": 0.01}
    minimum = {"type": "global", "minimum": 0.25}
    for final in (0.75, 0.8):
        cubic = {"type": "cubic", "init": 0.0, "final": final, "begin": 0, "end": 1000}
        sparsity = sparse.GMP(cubic, update=100, distribution=minimum)
        if final == 0.75:
            sparsity.apply(model)
            sparsity.remove()
            continue
        with pytest.raises(
            LevelError, match=r"^sparsity must be at most 0\.75, because every layer keeps at least"
        ):
            sparsity.apply(model)
    assert sparse.find(model) is None
    sparse.GMP(rising, update={"freq": 10, "stop": 70}, distribution=minimum).apply(model)
