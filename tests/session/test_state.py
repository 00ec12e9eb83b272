"""The state of an algorithm: its contents, its errors, and no side effects of loading."""

import copy
import io
import json
import math
import pickle

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import UserDefined, assert_same, make_mlp, masks_of, train
from sparsewright.errors import StateError

COSINE = {"type": "cosine", "init": 0.5, "half_period": 20}
ALGORITHMS = {
    "static": lambda: sparse.Static(0.5),
    "gmp": lambda: sparse.GMP([0.1, 0.3, 0.5], update=2),
    "set": lambda: sparse.SET([0.5, 0.25], sparsity=0.5, update=2, seed=3),
    "rigl": lambda: sparse.RigL(COSINE, sparsity=[0.5, 0.6], update=2),
    "user": lambda: UserDefined(sparsity=0.5, update=2),
    "group": lambda: sparse.configure(
        [
            {"algorithm": "set", "sparsity": [0.5, 0.6], "update": 2, "param_filter": "0.weight"},
            {"algorithm": "static", "sparsity": 0.5},
        ]
    ),
}


def trained(make, steps=5):
    """Return an algorithm after some steps, its model and its optimizer."""
    model, sparsity = make_mlp(), make()
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    train(model, optimizer, steps)
    return sparsity, model, optimizer


@pytest.fixture(params=ALGORITHMS)
def make(request):
    return ALGORITHMS[request.param]


def test_state_is_json_and_loads_with_weights_only(make):
    state = trained(make)[0].state_dict()
    assert json.loads(json.dumps(state)) == state
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


def test_loading_gives_the_state_back_and_does_not_touch_the_callers_dict(make):
    """FIX: the reference implementation removes entries from the caller's dict."""
    state = trained(make)[0].state_dict()
    before = copy.deepcopy(state)
    for new in (make(), trained(make, steps=2)[0]):
        new.load_state_dict(state)
        assert state == before
        assert new.state_dict() == before
        assert new.step == 5
    train_more, model, optimizer = trained(make)
    train_more.load_state_dict(state)
    train(model, optimizer, 2, start=5)
    assert state == before


def test_saving_is_a_snapshot(make):
    sparsity, model, optimizer = trained(make)
    state = sparsity.state_dict()
    before = copy.deepcopy(state)
    train(model, optimizer, 4, start=5)
    assert state == before
    assert sparsity.state_dict() != before


def test_state_holds_every_schedule_that_moves():
    """FIX: the position of a cycling drop fraction is saved, too."""
    sparsity = trained(ALGORITHMS["set"])[0]
    state = sparsity.state_dict()
    assert state["algorithm"] == "SET"
    assert state["steps"] == [5]
    assert state["seed"] == 3
    # Update steps 0, 2 and 4 are done, so the position moved three times.
    assert state["schedules"] == {"sparsity": {}, "drop_fraction": {"index": 1}}
    both = trained(lambda: sparse.SET([0.5, 0.25], sparsity=[0.1, 0.2, 0.3, 0.4], update=2))[0]
    assert both.state_dict()["schedules"] == {
        "sparsity": {"index": 3},
        "drop_fraction": {"index": 1},
    }


def test_one_schedule_for_several_parameters_moves_once_a_step():
    model = make_mlp()
    cycling = sparse.utils.Cycling([0.1, 0.2, 0.3, 0.4])
    sparsity = sparse.GMP({model[0].weight: cycling, model[2].weight: cycling}, update=1)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 2)
    assert [int(p.mask.sum()) for p in sparsity.sparse_params.values()] == [89, 44]
    assert sparsity.state_dict()["schedules"] == {"sparsity.0": {"index": 2}}


def test_levels_by_parameter_are_saved_by_position():
    def make_levels():
        model = make_mlp()
        levels = {model[0].weight: [0.1, 0.2], model[2].weight: [0.3, 0.4, 0.5]}
        return model, sparse.GMP(levels, update=1)

    model, sparsity = make_levels()
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 2)
    state = sparsity.state_dict()
    assert state["schedules"] == {"sparsity.0": {"index": 0}, "sparsity.1": {"index": 2}}
    other_model, other = make_levels()
    other.apply(other_model)
    other.load_state_dict(state)
    levels = [float(schedule(2)) for schedule in other.sparsity.values()]
    assert levels == pytest.approx([0.1, 0.5])


def test_visit_state_sees_and_replaces_every_number(make):
    sparsity = trained(make)[0]
    seen, before = [], copy.deepcopy(sparsity.state_dict())

    def visit(tensor):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.shape == ()
        seen.append(int(tensor))
        return tensor * 0

    sparsity.visit_state(visit)
    after = sparsity.state_dict()
    assert sparsity.step == 0
    assert sorted(seen) == sorted(numbers(before))
    assert set(numbers(after)) <= {0}


def numbers(state):
    """Return the steps and schedule positions in a state."""
    if "algorithms" in state:
        return [number for inner in state["algorithms"] for number in numbers(inner)]
    positions = [value for schedule in state["schedules"].values() for value in schedule.values()]
    return state["steps"] + positions


def break_state(state, how):
    return {
        "not a dict": lambda: [state],
        "empty": dict,
        "no steps": lambda: {key: value for key, value in state.items() if key != "steps"},
        "another algorithm": lambda: {**state, "algorithm": "Other"},
        "steps no list": lambda: {**state, "steps": 3},
        "steps no integers": lambda: {**state, "steps": [1.5]},
        "steps negative": lambda: {**state, "steps": [-1]},
        "seed": lambda: {**state, "seed": "x"},
        "schedules": lambda: {**state, "schedules": {}},
        "more schedules": lambda: {**state, "schedules": {**state["schedules"], "x": {}}},
        "a schedule": lambda: {**state, "schedules": dict.fromkeys(state["schedules"], 3)},
        "a schedule's state": lambda: {
            **state,
            "schedules": {name: {"index": 77} for name in state["schedules"]},
        },
    }[how]()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("not a dict", "expected a dict, got list"),
        ("empty", "missing keys: algorithm, steps, seed, schedules"),
        ("no steps", "missing keys: steps"),
        ("another algorithm", "it was saved by 'Other'"),
        ("steps no list", "steps must be a list"),
        ("steps no integers", "steps must be a list of integers >= 0"),
        ("steps negative", "steps must be a list of integers >= 0"),
        ("seed", "seed must be an integer of 64 bits; got 'x'"),
        ("schedules", "expected a dict with the keys sparsity, drop_fraction"),
        ("more schedules", "expected a dict with the keys sparsity, drop_fraction"),
        ("a schedule", "expected a dict, got 3"),
        ("a schedule's state", r"index must be between 0 and \d; got 77|it has no state to load"),
    ],
)
def test_foreign_states_raise_and_change_nothing(how, message):
    sparsity, *_ = trained(lambda: sparse.SET([0.5, 0.2], sparsity=[0.5, 0.6], update=2))
    before, masks = copy.deepcopy(sparsity.state_dict()), masks_of(sparsity)
    with pytest.raises(StateError, match=f"cannot load the state of .*: .*({message})"):
        sparsity.load_state_dict(break_state(sparsity.state_dict(), how))
    assert sparsity.state_dict() == before
    assert_same(masks_of(sparsity), masks)


def test_a_failing_second_schedule_restores_the_first():
    sparsity = trained(lambda: sparse.SET([0.5, 0.2], sparsity=[0.5, 0.6, 0.7], update=2))[0]
    before = copy.deepcopy(sparsity.state_dict())
    state = {**before, "schedules": {"sparsity": {"index": 2}, "drop_fraction": {"index": 9}}}
    with pytest.raises(StateError, match="index must be between 0 and 1; got 9"):
        sparsity.load_state_dict(state)
    assert sparsity.state_dict() == before


@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        (
            {"0.weight": 0.5},
            r"expected \[level, \[\[name, level\], ...\]\], got \{'0.weight': 0.5\}",
        ),
        ([0.5, [["0.weight", 2.0]]], r"expected a float in 0..1 for '0.weight', got 2.0"),
        ([1, [["0.weight", 0.5]]], r"expected a float in 0..1 for 'asked', got 1"),
    ],
)
def test_levels_of_another_form_are_not_loaded(levels, problem):
    sparsity = sparse.Static(0.5, distribution="global")
    before = sparsity.state_dict()
    with pytest.raises(StateError, match=f"cannot load the state of the levels: {problem}$"):
        sparsity.load_state_dict({**before, "levels": levels})
    assert sparsity.state_dict() == before


@pytest.mark.parametrize("way", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_have_options_and_state_and_are_attached_to_nothing(make, way):
    sparsity, model, optimizer = trained(make)
    calls = []
    sparsity.register_target_sparsity_hook(lambda *args: calls.append(args))
    twin = way(sparsity)
    assert type(twin) is type(sparsity)
    assert twin.state_dict() == sparsity.state_dict()
    assert twin.num_sparse_params == 0
    model_copy = copy.deepcopy(model)
    twin.apply(model_copy)
    assert_same(masks_of(twin), masks_of(sparsity))
    optimizer_copy = SGD(model_copy.parameters(), 0.1, momentum=0.9)
    optimizer_copy.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.apply(optimizer_copy)
    train(model_copy, optimizer_copy, 4, start=5)
    assert calls == []
    train(model, optimizer, 4, start=5)
    assert len(calls) > 0
    assert_same(dict(model.state_dict()), dict(model_copy.state_dict()))
    assert sparsity.state_dict() == twin.state_dict()


def test_randomness_is_the_algorithms_own():
    """Invariant 8: results depend on the seed and the names, not on global random draws."""
    first = trained(lambda: sparse.SET(sparsity=0.5, update=1, seed=1))[0]
    torch.manual_seed(999)
    state = torch.get_rng_state()
    second = trained(lambda: sparse.SET(sparsity=0.5, update=1, seed=1))[0]
    assert torch.equal(torch.get_rng_state(), state)
    third = trained(lambda: sparse.SET(sparsity=0.5, update=1, seed=2))[0]
    assert_same(masks_of(first), masks_of(second))
    different = masks_of(third)["0.weight"] != masks_of(first)["0.weight"]
    assert different.float().mean() > 0.2


def test_equal_weights_under_different_names_grow_differently():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    first, second = masks_of(sparsity).values()
    assert not torch.equal(first, second)


def test_the_seed_is_restored():
    state = trained(lambda: sparse.SET(sparsity=0.5, update=1, seed=5))[0].state_dict()
    other = sparse.SET(sparsity=0.5, update=1, seed=1)
    other.load_state_dict(state)
    assert other.seed == 5
    assert math.isclose(other.step, 5)
