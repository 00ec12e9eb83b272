"""For any config, `configure` returns a Group that trains, returns None, or raises our errors."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.support import backward, make_mlp
from sparsewright.errors import (
    OptionError,
    OptionTypeError,
    SparsewrightError,
    SparsityWarning,
)

EXAMPLES = int(os.environ.get("SPARSEWRIGHT_FUZZ", "10000"))

ODD_NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")]
    + [2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, True, 1 + 2j]
)
TENSORS = st.sampled_from(
    [
        torch.tensor(0.5),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor(1 + 2j),
        torch.tensor(3),
        torch.tensor(True),
        torch.tensor(float("nan")),
        torch.tensor(0.5, device="meta"),
        torch.ones(2, 3),
        torch.ones(0),
        np.float64(0.5),
        np.float32("nan"),
        np.int64(3),
        np.bool_(True),
        np.ones(3),
        np.array(["masked", "rigl"]),
    ]
)
NAMES = st.sampled_from(
    [
        "rigl",
        "RigL",
        "set",
        "gmp",
        "static",
        "Static",
        "rigel",
        "UserDefined",
        "random",
        "topk",
        "from_zeros",
        "checkerboard",
        "tokp",
        "masked",
        "compressed",
        "constant",
        "linear",
        "exp",
        "power",
        "cosine",
        "cubic",
        "cycling",
        "lambda",
        "Lambda",
        "*",
        "*.weight",
        "0.weight",
        "[",
        "(?P<",
        "a{99999999999}",
        "(a|b)*",
        "embedding",
        "x",
    ]
    + ["", "\0", "\ud800"]
)
JUNK_LEAF = st.none() | st.booleans() | ODD_NUMBERS | TENSORS | NAMES | st.text(max_size=4)
JUNK_LEAF |= st.sampled_from([object(), int, b"bytes", frozenset({1}), range(3), ...])
_NESTED_JUNK = st.recursive(
    JUNK_LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)
JUNK = st.deferred(lambda: _NESTED_JUNK)  # without `deferred`, its repr takes kilobytes at each use


def mostly(good):
    """Return a strategy that draws good values most of the time, and junk otherwise."""
    return st.deferred(lambda: st.one_of([good] * 7 + [JUNK]))


LEVEL = mostly(st.floats(0, 1) | st.sampled_from([0, 0.5, 0.9, 0.99]))
NUMBER = mostly(st.floats(-2, 2) | st.integers(0, 20) | ODD_NUMBERS)
STEP = mostly(st.integers(0, 12))


def some_of(keys):
    """Return a strategy for dicts with some of the keys, and sometimes an unknown key."""
    stranger = st.one_of([st.just({})] * 7 + [st.dictionaries(NAMES, JUNK, max_size=1)])
    known = st.fixed_dictionaries({}, optional=keys)
    return st.builds(lambda *parts: {**parts[0], **parts[1]}, known, stranger)


SCHEDULE = st.one_of(
    LEVEL,
    st.lists(LEVEL, max_size=3),
    some_of(
        {
            "type": mostly(
                st.sampled_from(["linear", "exp", "power", "cosine", "Cubic", "cycling"])
            ),
            **dict.fromkeys(("init", "slope", "gamma", "final", "beta", "minimum"), NUMBER),
            **dict.fromkeys(("half_period", "begin", "end", "value"), NUMBER),
            "values": mostly(st.lists(LEVEL, max_size=3)),
        }
    ),
    st.builds(lambda: lambda step: 0.5),
)
UPDATE = st.one_of(
    STEP,
    some_of({"freq": STEP, "start": STEP, "stop": mostly(st.integers(0, 12) | ODD_NUMBERS)}),
    some_of({"steps": mostly(st.lists(STEP, max_size=3))}),
    st.builds(lambda: lambda step: int(step) % 2 == 0),
)
FILTER = mostly(st.sampled_from(["*", "0.weight", ["*.weight"], ["0.*", "2.*"]]))
OPTIONS = {
    "algorithm": mostly(st.sampled_from(["static", "gmp", "set", "rigl", "RigL", "UserDefined"])),
    "type": NAMES,
    "sparsity": SCHEDULE,
    "schedule": SCHEDULE,
    "update": UPDATE,
    "drop_fraction": SCHEDULE,
    "init_method": mostly(st.sampled_from(["random", "topk", "from_zeros", "checkerboard"])),
    "seed": mostly(st.integers(-5, 5) | ODD_NUMBERS),
    "balance_in_groups": mostly(st.sampled_from([1, 2, 4])),
    "balance_out_groups": mostly(st.sampled_from([1, 2, 3])),
    "storage": mostly(st.sampled_from(["masked", "compressed"])),
    "param_filter": FILTER | st.deferred(lambda: st.dictionaries(NAMES, ENTRY, max_size=2)),
    "param_name_patterns": mostly(NAMES | st.lists(NAMES, max_size=2)),
    "sparsity_schedule": mostly(st.lists(st.tuples(STEP, LEVEL).map(list), max_size=3)),
}


def likely(*keys):
    """Return a strategy for entries with exactly these keys. Random sets are rarely valid."""
    return st.fixed_dictionaries({key: OPTIONS[key] for key in keys})


ENTRY = st.one_of(
    likely("algorithm", "sparsity"),
    likely("algorithm", "sparsity", "update"),
    likely("algorithm", "sparsity", "update", "storage", "seed", "init_method"),
    likely("algorithm", "sparsity", "drop_fraction", "update", "param_filter"),
    likely("algorithm", "sparsity", "balance_in_groups", "init_method"),
    likely("algorithm", "sparsity", "balance_out_groups"),
    likely("type", "sparsity_schedule", "param_name_patterns"),
    likely("type", "sparsity_schedule", "param_name_patterns", "schedule"),
    some_of(OPTIONS),
)
CONFIG = st.recursive(
    ENTRY | JUNK,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(
            lambda outer, key, nested: {**outer, key: nested},
            st.just({}) | ENTRY,
            st.sampled_from(["groups", "params"]),
            inner | st.lists(inner, max_size=3),
        )
        | ENTRY
    ),
    max_leaves=4,
)


def use(group: sparse.Group) -> None:
    """Sparsify a model, train it for two steps, and load the algorithm's own state."""
    model = make_mlp()
    group.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    group.apply(optimizer)
    for step in range(2):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    for name, parameter in group.sparse_params.items():
        assert not parameter.storage.weight().detach()[~parameter.mask].any(), name
    group.load_state_dict(group.state_dict())


def outcome(config: object) -> str:
    """Return what happened to a config. Errors that are not ours propagate."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SparsityWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            group = sparse.configure(config)
        except SparsewrightError as error:
            return "refused" if 10 < len(str(error)) < 2000 else f"a message of {len(str(error))}"
        if group is None:
            return "none"
        assert isinstance(group, sparse.Group)
        try:
            use(group)
        except SparsewrightError:
            return "refused in use"
        return "trained"


@pytest.mark.slow
def test_fuzzed_configs_train_or_raise_our_errors():
    seen: dict[str, int] = {}

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(CONFIG)
    def fuzz(config):
        result = outcome(config)
        seen[result] = seen.get(result, 0) + 1

    fuzz()
    assert sum(seen.values()) >= EXAMPLES
    assert set(seen) <= {"trained", "refused", "none", "refused in use"}
    # The fuzzer must get past the first check often enough.
    assert seen["trained"] > EXAMPLES / 50
    assert seen["refused"] > EXAMPLES / 50
    print(seen)


def nested(levels: int, make=lambda inner: {"groups": [inner]}) -> object:
    config: object = {"algorithm": "static", "sparsity": 0.5}
    for _ in range(levels):
        config = make(config)
    return config


def test_reasonable_nesting_is_fine():
    assert len(sparse.configure(nested(5))) == 1
    assert len(sparse.configure(nested(12, lambda inner: {"params": inner}))) == 1


def circle() -> dict:
    config: dict = {"algorithm": "static", "sparsity": 0.5}
    config["groups"] = [config, config]
    return config


def in_itself() -> list:
    config: list = []
    config.append(config)
    return config


def bomb() -> object:
    """Return a billion numbers in a kilobyte of nested lists."""
    values: object = 1
    for _ in range(9):
        values = [values] * 10
    return values


RIGL = {"algorithm": "rigl", "sparsity": 0.5}
ENDLESS = {
    "groups in groups": nested(9000),
    "params in params": nested(9000, lambda inner: {"params": inner}),
    "lists in lists": nested(9000, lambda inner: [inner]),
    "a group of itself": circle(),
    "a list of itself": in_itself(),
    "a bomb": bomb(),
    "a bomb of groups": {"groups": bomb()},
    "a bomb as an option": {**RIGL, "update": bomb()},
    "a bomb as a name": {**RIGL, "algorithm": bomb()},
    "a bomb as a level": {**RIGL, "sparsity": bomb()},
    "a deep option": {**RIGL, "drop_fraction": nested(9000, lambda inner: [inner])},
    "an endless number": {**RIGL, "sparsity": 10**5000},
    "a level in its list": {**RIGL, "sparsity": [0.5, 10**5000]},
    "an argument": {**RIGL, "sparsity": {"type": "linear", "init": 10**5000, "slope": 0}},
    "a step": {**RIGL, "update": 10**5000},
    "a seed": {**RIGL, "seed": -(10**5000)},
    "a name": {**RIGL, "algorithm": "rigl" * 10**6},
    "a key": {**RIGL, "drop_fraction" * 10**5: 1},
    "a pattern": {"type": "static", "param_name_patterns": "(" * 10**5, "sparsity": 0.5},
}


@pytest.mark.parametrize("config", ENDLESS.values(), ids=ENDLESS)
def test_endless_configs_are_rejected(config):
    assert outcome(config) == "refused"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": {"start": 10, "stop": 5}}, r"^stop must be greater than start = 10; got 5\.$"),
        ({"update": {"stop": 0}}, r"^stop must be greater than start = 0; got 0\.$"),
        ({"update": 2**53 + 1}, r"^update must be .* <= 2\*\*53; got 9007199254740993"),
        ({"seed": 2**63}, r"^seed must be a 64-bit integer; got 9223372036854775808"),
        (
            {"storage": np.array(["masked", "rigl"])},
            r"^storage must be one of masked, .*; got <\w+ ndarray of shape \(2,\)>",
        ),
        ({"drop_fraction": 10**400}, r"^drop_fraction must be a finite number; got 1000"),
    ],
)
def test_values_out_of_bounds_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        sparse.configure({**RIGL, **options})
    sparse.configure(RIGL)


@pytest.mark.parametrize("level", [torch.tensor(1 + 2j), torch.tensor(0.5, device="meta")])
def test_tensors_that_are_not_numbers(level):
    with pytest.raises(OptionTypeError, match=r"^sparsity must be a number, .*; got tensor"):
        sparse.configure({**RIGL, "sparsity": level})


def test_tensors_that_are_numbers():
    for level in (torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.5, requires_grad=True)):
        group = sparse.configure({**RIGL, "sparsity": level})
        assert float(group[0].schedules.value("sparsity", 0)) == 0.5


def test_a_stop_far_away_costs_nothing():
    """The capacity annotations evaluate a bounded number of steps, including the last one."""
    level = {"type": "linear", "init": 0.0, "slope": 1e-15}
    config = {"algorithm": "gmp", "sparsity": level, "update": {"freq": 1, "stop": 10**15}}
    model, group = make_mlp(), sparse.configure(config)
    group.apply(model)
    (parameter, _) = group.sparse_params.values()
    assert parameter.annotations["sparsity"] == pytest.approx(1)
    assert parameter.annotations["max_sparsity"] == pytest.approx(1)
    assert parameter.annotations["min_sparsity"] == 0
