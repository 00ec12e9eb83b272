"""Test the notes about probable mistakes, also against real training."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright.plan.forecast import forecast
from sparsewright.plan.make_plan import make_plan
from sparsewright.plan.pitfalls import find_notes, find_pitfalls

STEPS = 40
CUBIC = {"type": "cubic", "init": 0.0, "final": 0.9, "begin": 0, "end": 30}

CASES = {
    "after the run": (
        lambda: sparse.RigL(sparsity=0.9, update={"freq": 10, "stop": 100}),
        [
            "updates are scheduled until step 90, but the run ends at step 40",
            "at step 40 of 40, too late for the new connections to train; stop updates earlier",
        ],
    ),
    "never": (
        lambda: sparse.SET(sparsity=0.9, update={"freq": 10, "start": 50}),
        ["masks never change in the 40 steps of the run: the first update is due at step 50"],
    ),
    "no steps": (
        lambda: sparse.SET(sparsity=0.9, update={"steps": []}),
        ["masks never change in the 40 steps of the run: no update step is known"],
    ),
    "level at the stop": (
        lambda: sparse.GMP(CUBIC, {"freq": 10, "stop": 30}),
        [
            "the level ends at 0.8667, not at 0.9: the schedule has this value at step 30, but the "
            "last update is at step 20"
        ],
    ),
    "level at the end of the run": (
        lambda: sparse.GMP({**CUBIC, "end": 60}, 10),
        ["the level ends at 0.8667, not at 0.9: the schedule has this value at step 60"],
    ),
    "list": (
        lambda: sparse.GMP([0.1, 0.2, 0.3], {"steps": [10, 20]}),
        ["the level has 3 values but the run has only 2 updates, so the last value is never"],
    ),
    "level that comes back": (
        lambda: sparse.GMP({"type": "cosine", "init": 0, "half_period": 20, "minimum": 0.9}, 5),
        ["the level ends at 0, not at 0.9"],
    ),
    "late": (
        lambda: sparse.RigL(sparsity=0.9, update=10),
        ["30% of the connections are replaced at step 40 of 40"],
    ),
    "drops nothing": (
        lambda: sparse.SET(0.0, sparsity=0.9, update={"freq": 10, "stop": 30}),
        ["drop_fraction is 0 at every update: no connection is replaced"],
    ),
    "static": (lambda: sparse.Static(0.9), []),
    "as meant": (lambda: sparse.GMP(CUBIC, {"freq": 10, "stop": 31}), []),
    "as meant too": (
        lambda: sparse.RigL(
            {"type": "cosine", "init": 0.3, "half_period": 40}, sparsity=0.9, update=10
        ),
        [],
    ),
    "stops": (lambda: sparse.RigL(sparsity=0.9, update={"freq": 10, "stop": 31}), []),
    "first mask": (lambda: sparse.SET(sparsity=0.9, update={"steps": [0]}), []),
}


@pytest.mark.parametrize("case", CASES)
def test_notes(case: str) -> None:
    make, expected = CASES[case]
    found = list(find_pitfalls(make(), forecast(make(), STEPS)))
    assert len(found) == len(expected), found
    for note, part in zip(found, expected, strict=True):
        assert part in note


@pytest.mark.parametrize("case", ["level at the stop", "level at the end of the run", "as meant"])
def test_the_level_of_the_note_is_that_of_a_training(case: str) -> None:
    make, expected = CASES[case]
    algorithm, model = make(), make_mlp(inputs=8, hidden=40)
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.01)
    algorithm.apply(optimizer)
    train(model, optimizer, STEPS)
    weight = next(iter(algorithm.sparse_params.values()))
    reached = 0.8667 if expected else 0.9
    assert weight.computed_sparsity == pytest.approx(reached, abs=1 / 320)


def test_weights_that_keep_nothing_are_named() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)), torch.nn.Linear(99, 9))
    algorithm = sparse.Static(0.95)
    route = ("sparsity", sparse.default_sparse_param_filter, algorithm)
    plan = make_plan(model, [route], {id(algorithm): forecast(algorithm, 10)}, pytest.fail)
    assert find_notes(plan) == [
        "these weights have no live connections at the start of the run: "
        "0.weight, 1.weight, 2.weight and 2 more"
    ]
