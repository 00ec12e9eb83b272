"""Tests of configs with all combinations of choices, and of every schedule as a level."""

import itertools

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.choices import (
    ALGORITHMS,
    DISTRIBUTIONS,
    SCHEDULES,
    STORAGES,
    STRUCTURES,
    config_of,
    why_not,
)
from helpers.support import batch, train
from sparsewright.core.counts import num_kept
from sparsewright.errors import SparsewrightError

COMBINATIONS = list(itertools.product(ALGORITHMS, STRUCTURES, DISTRIBUTIONS, STORAGES))
every_combination = pytest.mark.parametrize(
    ("algorithm", "structure", "distribution", "storage"), COMBINATIONS
)


def make_model():
    """Build layers of different shapes, with all dimensions divisible by four."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
        return nn.Sequential(*layers)


def attach(config):
    model = make_model()
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


@every_combination
def test_text_and_copies(algorithm, structure, distribution, storage):
    choices = {"structure": STRUCTURES[structure], "distribution": DISTRIBUTIONS[distribution]}
    if why_not(algorithm, choices["structure"], choices["distribution"], storage):
        return
    config = config_of(algorithm, **choices, storage=storage)
    (first,), (second,) = sparse.configure(config).algorithms, sparse.configure(config).algorithms
    assert repr(first) == repr(second)
    default = sparse.configure(config_of(algorithm)).algorithms[0]
    if structure != "unstructured":
        assert repr(first.structure) in repr(first)
    if not first.distribution.is_uniform:
        assert repr(first.distribution) in repr(first)
    if storage != default.storage:
        assert f"storage={storage!r}" in repr(first)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_schedule_is_a_level(schedule, structure):
    """Use each schedule in a config with each structure, which may allow only some levels."""
    config = {"algorithm": "set", "sparsity": SCHEDULES[schedule], "update": 1}
    (own,) = sparse.configure(config).algorithms
    made = sparse.structures.make_structure(STRUCTURES[structure])
    if made.has_one_level:
        steps = [*range(7), 10**6]  # updates never end
        levels = [float(own.schedules.value("sparsity", step)) for step in steps]
        only = float(made.level(None))
        is_constant = own.schedules["sparsity"].levels() == [levels[0]]
        if max(levels) > only or (is_constant and levels[0] != only):
            with pytest.raises(SparsewrightError, match=r"level|sparsity"):
                train(*attach({**config, "structure": STRUCTURES[structure]})[::2], 6)
            return
    model, sparsity, optimizer = attach({**config, "structure": STRUCTURES[structure]})
    train(model, optimizer, 6)
    level = sparsity.algorithms[0].schedules.value("sparsity", sparsity.step - 1)
    assert 0 <= float(level) <= 1
    for p in sparsity.sparse_params.values():
        assert not p.param.detach()[~p.mask].any()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("level", [0.5, 0.75])
def test_levels_are_those_of_the_pure_function(distribution, level):
    config = config_of("static", distribution=DISTRIBUTIONS[distribution])
    model = make_model()
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    made = sparse.distributions.make_distribution(DISTRIBUTIONS[distribution])

    class Statistics:
        def weight(self, name):
            return weights[name].detach()

        def score(self, name):
            return None

    shapes = {name: weight.shape for name, weight in weights.items()}
    expected = made(shapes, level, Statistics())
    sparsity = sparse.configure({**config, "sparsity": level})
    sparsity.apply(model)
    for name, p in sparsity.sparse_params.items():
        assert p.kept == num_kept(expected[name], p.shape.numel())
        assert p.annotations.get("sparsity", expected[name]) == pytest.approx(expected[name])


@pytest.mark.parametrize("storage", STORAGES)
def test_forward_sees_the_pruned_weight(storage):
    config = {"algorithm": "rigl", "sparsity": 0.5, "update": 2, "storage": storage}
    model, sparsity, optimizer = attach(config)
    train(model, optimizer, 3)
    plain = make_model()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "mask" not in k})
    x = batch(9, 5, 8)
    torch.testing.assert_close(model(x), plain(x))
    assert sparsity.step == 3
