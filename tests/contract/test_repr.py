"""Tests that Python reads every repr back as an equal algorithm."""

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
    own_storage,
    why_not,
)
from helpers.support import assert_same, train
from sparsewright import distributions, init, schedules, structures

NAMES = {
    name: value
    for package in (sparse.utils, sparse, distributions, schedules, structures)
    for name, value in vars(package).items()
    if not name.startswith("_")
}
# A function has no text that Python can read.
READABLE = [name for name in SCHEDULES if name != "lambda"]


def read_back(algorithm):
    again = eval(repr(algorithm), dict(NAMES))
    assert again is not algorithm
    assert type(again) is type(algorithm)
    assert repr(again) == repr(algorithm)
    return again


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_combination_reads_back(algorithm, structure):
    count = 0
    for distribution, storage in itertools.product(DISTRIBUTIONS, STORAGES):
        chosen = STRUCTURES[structure], DISTRIBUTIONS[distribution], storage
        if why_not(algorithm, *chosen):
            continue
        choices = dict(zip(("structure", "distribution", "storage"), chosen, strict=True))
        group = sparse.configure(config_of(algorithm, **choices, seed=3))
        again = read_back(group)
        for own, other in zip(group, again, strict=True):
            read_back(own)
            assert repr(other) == repr(own)
            assert (other.storage, other.seed) == (storage, 3)
        count += 1
    assert count, "no combination of this algorithm and structure works"


@pytest.mark.parametrize("schedule", READABLE)
def test_every_schedule_reads_back(schedule):
    config = {"algorithm": "rigl", "update": {"freq": 2, "start": 2, "stop": 9}}
    for options in (
        {"sparsity": SCHEDULES[schedule]},
        {"sparsity": 0.5, "drop_fraction": SCHEDULES[schedule]},
    ):
        (own,) = sparse.configure({**config, **options})
        again = read_back(own)
        assert list(again.update_steps(20)) == list(own.update_steps(20)) == [2, 4, 6, 8]
        for name, value in own.schedules.items():
            assert again.schedules[name] == value, name


OTHERS = [
    lambda: sparse.Static(1 / 3, "topk", seed=-1),
    lambda: sparse.Static(0.5, init.checkerboard),
    lambda: sparse.SET(0.2, sparsity=[0.3, 0.4], update={"steps": [1, 5]}),
    lambda: sparse.RigL(0.2, 2, sparsity=0.5),
    lambda: sparse.RigL(0.2, None, 4, sparsity=0.5, update=7),
    lambda: sparse.RigL(sparsity=0.5, structure="unstructured"),
    lambda: sparse.RigL(sparsity=0.5, structure=sparse.utils.InputGroupScoreShaper(2)),
    lambda: sparse.RigL(sparsity=0.5, structure=structures.Channel(1, float("inf"))),
    lambda: sparse.RigL(sparsity=0.5, structure=structures.Block((2, 8), pool="l2")),
    lambda: sparse.RigL(sparsity=0.5, structure=structures.FanIn(0.25, ["2.*", "4.*"])),
    lambda: sparse.Static(0.5, distribution={"type": "erk", "dense": "0.*", "budget": "all"}),
    lambda: sparse.Static(0.5, distribution={"type": "er", "epsilon": 3}),
    lambda: sparse.Static(0.5, distribution={"type": "global", "normalize": "l2", "minimum": 0.1}),
    lambda: sparse.Group(),
    lambda: sparse.Group({"a*": sparse.Static(0.5), ("b", "c"): sparse.SET(sparsity=0.3)}),
    lambda: sparse.Group([(sparse.default_sparse_param_filter, sparse.STE(0.5))]),
]


@pytest.mark.parametrize("make", OTHERS)
def test_other_options_read_back(make):
    read_back(make())


PAIRS = [
    *((name, structure, "uniform") for name in ALGORITHMS for structure in STRUCTURES),
    *((name, "unstructured", d) for name in ALGORITHMS for d in DISTRIBUTIONS),
]


@pytest.mark.parametrize(("algorithm", "structure", "distribution"), PAIRS)
def test_what_is_read_back_trains_the_same_masks(algorithm, structure, distribution):
    choices = {"structure": STRUCTURES[structure], "distribution": DISTRIBUTIONS[distribution]}
    assert not why_not(algorithm, *choices.values(), own_storage(algorithm))
    group = sparse.configure(config_of(algorithm, **choices, seed=5))
    states = []
    for sparsity in (read_back(group), group):
        torch.manual_seed(0)
        layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
        model = nn.Sequential(*layers)
        sparsity.apply(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
        sparsity.apply(optimizer)
        train(model, optimizer, 5)
        states.append((model.state_dict(), sparsity.state_dict()))
    assert_same(*(weights for weights, _ in states))
    assert_same(*(state for _, state in states))
