"""`load_state_dict` raises StateError and changes nothing, or it loads a valid state."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import sparsewright as sparse
from helpers.cases import ALGORITHMS, attach, step_once
from helpers.support import assert_same, masks_of
from sparsewright.errors import StateError

JUNK = [
    None,
    True,
    -1,
    2**53 + 1,
    -(2**63) - 1,
    10**5000,
    0.5,
    math.nan,
    math.inf,
    1j,
    "x",
    "",
    b"x",
    [],
    [-1],
    [1.0],
    [True],
    [10**400],
    [[0]],
    {},
    {"index": -1},
    {"index": 10**400},
    {"index": 0, "extra": 1},
    {"index": torch.tensor(0)},
    {1: 2, "a": 3},
    (0,),
    torch.tensor(1),
    torch.ones(3),
    np.ones(3),
    np.int64(1),
    object(),
]


def deep(levels):
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


def places(state, path=()):
    """Yield the path of every value in a nested state."""
    yield path
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in pairs if isinstance(state, dict | list) else ():
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def changed(state, path, change):
    """Return a copy of the state after calling `change(container, key)` at a path."""
    root = [copy.deepcopy(state)]
    inside = root
    path = (0, *path)
    for key in path[:-1]:
        inside = inside[key]
    change(inside, path[-1])
    return root[0]


def put(value):
    return lambda inside, key: inside.__setitem__(key, value)


def delete(inside, key):
    del inside[key]


def add(inside, key):
    inside[key] = {**inside[key], "stranger": 1}


def faults(state):
    """Yield every kind of damage at every place in a state."""
    for path in places(state):
        for value in [*JUNK, deep(10_000)]:
            yield path, repr(type(value)), changed(state, path, put(value))
        if path:
            yield path, "deleted", changed(state, path, delete)
        value = state
        for key in path:
            value = value[key]
        if isinstance(value, dict):
            yield path, "a key more", changed(state, path, add)


STATES = ALGORITHMS | {
    "set by magnitude": lambda: sparse.SET(sparsity=0.6, update=2, distribution="global")
}


def is_sound(state, own):
    """Return whether a state has the keys and types of this algorithm's own state."""
    if isinstance(own, dict):
        return (
            type(state) is dict
            and state.keys() == own.keys()
            and all(is_sound(state[key], own[key]) for key in own)
        )
    if isinstance(own, list):
        return type(state) is list and (
            all(is_sound(a, b) for a, b in zip(state, own, strict=False))
        )
    return type(state) is type(own)


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_hostile_states_change_nothing(make):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    own, masks = copy.deepcopy(sparsity.state_dict()), masks_of(sparsity)
    refused = taken = longest = 0
    for path, how, state in faults(own):
        try:
            sparsity.load_state_dict(state)
        except StateError as error:
            refused += 1
            longest = max(longest, len(str(error)))
            assert sparsity.state_dict() == own, (path, how)
        else:
            taken += 1
            assert is_sound(state, own), (path, how, state)
            sparsity.load_state_dict(own)
    print(f"{refused} states rejected, {taken} accepted")
    assert refused > 200
    assert longest < 2000
    assert_same(masks_of(sparsity), masks)
    reference = attach(make)
    for step in range(1, 4):
        step_once(reference[0], reference[2], step)
    for step in range(4, 7):
        step_once(model, optimizer, step)
        step_once(reference[0], reference[2], step)
    assert_same(dict(model.state_dict()), dict(reference[0].state_dict()))


class Stubborn(sparse.utils.Constant):
    """A user's schedule with a state that raises its own error on loading."""

    def state_dict(self):
        return {"mine": 1}

    def load_state_dict(self, state_dict):
        if state_dict["mine"] != 1:
            raise KeyError("mine")


def test_an_error_of_the_users_schedule_changes_nothing_either():
    sparsity = sparse.SET(Stubborn(0.3), sparsity=[0.5, 0.6, 0.7])
    before = copy.deepcopy(sparsity.state_dict())
    state = {**before, "schedules": {"sparsity": {"index": 2}, "drop_fraction": {"mine": 2}}}
    with pytest.raises(KeyError, match="mine"):
        sparsity.load_state_dict(state)
    assert sparsity.state_dict() == before


MASKS = {
    "a string": "0" * 128,
    "a list": [[1] * 8] * 16,
    "None": None,
    "wrong shape": torch.ones(8, 16, dtype=torch.bool),
    "fewer dimensions": torch.ones(128, dtype=torch.bool),
    "no dimension": torch.tensor(True),
    "empty": torch.ones(0, 8, dtype=torch.bool),
    "halves": torch.full((16, 8), 0.5),
    "minus one": -torch.ones(16, 8),
    "two": torch.full((16, 8), 2, dtype=torch.uint8),
    "nan": torch.full((16, 8), math.nan),
    "imaginary": torch.full((16, 8), 1j),
    "too few bits": torch.full((15,), 255, dtype=torch.uint8),
    "too many bits": torch.full((17,), 255, dtype=torch.uint8),
    "bits as int64": torch.full((16,), 255),
}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_hostile_masks_are_refused_by_the_model(mask, storage):
    model, sparsity, optimizer = attach(ALGORITHMS["rigl"])
    step_once(model, optimizer, 1)
    if storage == "compressed":
        sparse.compress(model, verbose=False)
    masks = masks_of(sparsity)
    with pytest.raises(RuntimeError, match=r"0\.weight_mask"):
        model.load_state_dict({**model.state_dict(), "0.weight_mask": mask})
    assert_same(masks_of(sparsity), masks)
    step_once(model, optimizer, 2)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_bits_beyond_the_last_entry_are_refused(storage):
    model = torch.nn.Sequential(torch.nn.Linear(5, 3))
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    if storage == "compressed":
        sparse.compress(model, verbose=False)
    bits = torch.tensor([255, 255], dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="bits are set beyond its 15 entries"):
        model.load_state_dict({**model.state_dict(), "0.weight_mask": bits})
