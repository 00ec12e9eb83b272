"""Hyperparameter schedules, compared with their formulas."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.errors import MissingOptionError, OptionError, OptionTypeError, StateError
from sparsewright.schedules import ALL
from sparsewright.schedules.schedule import constant_value
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.utils import (
    Constant,
    Cosine,
    Cubic,
    Cycling,
    Exp,
    HyperParameterSchedule,
    Lambda,
    Linear,
    Power,
    make_hyperparam_schedule,
)

FORMULAS = [
    (Constant(0.3), lambda s: 0.3),
    (Linear(0.1, 0.003), lambda s: 0.1 + s * 0.003),
    (Exp(0.1, -0.02), lambda s: 1 + (0.1 - 1) * math.exp(-0.02 * s)),
    (Exp(0.9, -0.1, 0.2), lambda s: 0.2 + (0.9 - 0.2) * math.exp(-0.1 * s)),
    (Power(0.8, 0.99), lambda s: 0.8 * 0.99**s),
    (Cosine(0.3, 50), lambda s: 0.15 + 0.15 * math.cos(s * math.pi / 50)),
    (Cosine(0.3, 40, 0.1), lambda s: 0.2 + 0.1 * math.cos(s * math.pi / 40)),
    (
        Cubic(0.1, 0.9, 10, 60),
        lambda s: 0.9 + (0.1 - 0.9) * (1 - min(max((s - 10) / 50, 0), 1)) ** 3,
    ),
]
ids = [repr(schedule) for schedule, _ in FORMULAS]


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=ids)
@given(step=st.integers(0, 10**6))
def test_formula(schedule, formula, step):
    for given_step in (step, torch.tensor(step)):
        value = schedule(given_step)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(formula(step), rel=2e-6, abs=1e-6)
        assert torch.equal(value, schedule.compute(given_step))


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=ids)
@given(begin=st.integers(0, 120), length=st.integers(0, 60))
def test_min_max_end(schedule, formula, begin, length):
    values = [formula(step) for step in range(begin, begin + length + 1)]
    found = schedule.get_min_max_end(begin, begin + length)
    assert found == pytest.approx((min(values), max(values), values[-1]), rel=2e-6, abs=1e-6)


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=ids)
def test_result_is_on_the_device_of_the_step(schedule, formula):
    assert schedule(torch.tensor(3, device="meta")).device.type == "meta"


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=ids)
def test_copies_are_equal_and_have_no_state(schedule, formula):
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        assert twin(7) == schedule(7)
    assert schedule.state_dict() == {}
    schedule.load_state_dict({})
    with pytest.raises(StateError, match=r"it has no state to load; got"):
        schedule.load_state_dict({"index": 1})


levels = st.floats(0, 1)


@given(st.lists(levels, min_size=1, max_size=4), st.integers(0, 9), st.integers(0, 10**6))
def test_exact_is_the_number_that_was_given(values, updates, step):
    cycling = Cycling(values)
    for _ in range(updates):
        cycling.update(True)
    cases = [(Constant(values[0]), values[0]), (cycling, values[updates % len(values)])]
    for schedule, value in cases:
        for given_step in (step, torch.tensor(step)):
            exact = schedule.exact(given_step)
            assert (exact.shape, exact.dtype) == ((), torch.float64)
            assert float(exact) == value
            assert float(schedule(given_step)) == float(torch.tensor(value, dtype=torch.float32))
        assert schedule.exact(torch.tensor(step, device="meta")).device.type == "meta"


@pytest.mark.parametrize(
    "schedule",
    [s for s, _ in FORMULAS[1:]] + [Lambda(lambda s: s / 3)],
    ids=lambda s: type(s).__name__,
)
@given(step=st.integers(0, 200))
def test_exact_of_what_is_computed_is_computed(schedule, step):
    assert torch.equal(schedule.exact(step), schedule.compute(step))
    assert schedule.exact(step).dtype == torch.float32


@given(st.lists(levels, min_size=1, max_size=4), st.lists(st.booleans(), max_size=9))
def test_levels_are_all_values(values, dues):
    for schedule, expected in ((Cycling(values), values), (Constant(values[0]), values[:1])):
        assert list(schedule.levels()) == expected
        for step, due in enumerate(dues):
            assert float(schedule.exact(step)) in schedule.levels()
            schedule.update(due)


def test_what_is_computed_lists_no_levels():
    for schedule in [s for s, _ in FORMULAS[1:]] + [Lambda(lambda s: 0.5)]:
        assert schedule.levels() is None


@given(levels, levels, st.floats(-20, 60), st.floats(0.5, 50))
def test_a_cubic_is_constant_after_its_last_step(init, final, begin, length):
    schedule = Cubic(init, final, begin, begin + length)
    last = schedule.last_step
    assert all(schedule(step) == schedule(last) for step in range(last, last + 20))
    assert float(schedule(last)) == pytest.approx(final, abs=1e-6)
    assert last == 0 or last - 1 < begin + length


@given(levels, levels, st.integers(1, 40))
def test_a_cosine_runs_in_reverse_after_its_last_step(init, minimum, half_period):
    schedule = Cosine(init, half_period, minimum)
    last = schedule.last_step
    assert last == half_period
    assert float(schedule(last)) == pytest.approx(minimum, abs=1e-6)
    for step in range(last):
        assert float(schedule(last + step)) == pytest.approx(float(schedule(last - step)), abs=1e-5)


def test_the_last_steps_of_the_others():
    assert Constant(0.3).last_step == 0
    assert Cosine(0.3, 7.2).last_step == 8
    assert Cubic(0, 0.9, -9, -3).last_step == 0
    others = [Linear(0, 0), Exp(0, -1), Power(0.5, 0.5), Cycling([0.5]), Lambda(lambda s: 0.5)]
    assert [schedule.last_step for schedule in others] == [None] * 5


def test_only_a_schedule_that_cannot_move_has_a_constant_value():
    class Own(HyperParameterSchedule):
        last_step = 0

        def compute(self, step):
            return torch.tensor(0.25)

        def levels(self):
            return self.values

        def __init__(self, *values):
            self.values = values

    assert constant_value(Constant(0.3)) == 0.3
    assert constant_value(Own(0.25)) == 0.25
    assert constant_value(Own(0.25, 0.5)) is None
    for moves in (Cycling([0.5]), Cubic(0, 0.9, -2, -1), Linear(0.5, 0), Lambda(lambda s: 0.5)):
        assert constant_value(moves) is None


def test_names_are_the_types_of_a_config():
    names = [each.name for each in ALL]
    assert len(set(names)) == len(names)
    assert all(name == each.__name__.lower() for name, each in zip(names, ALL, strict=True))
    with pytest.raises(OptionError, match=rf"Choose from {', '.join(names)}\.$"):
        make_hyperparam_schedule({"type": "none"})


def test_different_schedules_are_not_equal():
    assert Linear(0.1, 0.2) != Linear(0.1, 0.3)
    assert Constant(0.1) != Power(0.1, 1.0)


def test_cycling_moves_at_update_steps_only():
    cycling = Cycling([0.1, 0.2, 0.3])
    seen = []
    for due in (True, False, True, True, True):
        seen.append(round(float(cycling(99)), 6))
        cycling.update(due)
    assert seen == [0.1, 0.2, 0.2, 0.3, 0.1]
    assert cycling.get_min_max_end(5, 6) == (0.1, 0.3, 0.3)
    assert float(cycling(torch.tensor(3))) == pytest.approx(0.2)


def test_cycling_state():
    cycling, other = Cycling([0.1, 0.2, 0.3]), Cycling([0.1, 0.2, 0.3])
    cycling.update(torch.tensor(True))
    assert cycling.state_dict() == {"index": 1}
    other.load_state_dict(cycling.state_dict())
    assert other == cycling
    cycling.visit_state(lambda tensor: tensor + 1)
    assert cycling.state_dict() == {"index": 2}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "index must be an integer; got None"),
        ({"index": 1.0}, "index must be an integer; got 1.0"),
        ({"index": True}, "index must be an integer; got True"),
        ({"index": 3}, "index must be between 0 and 2; got 3"),
        ({"index": -1}, "index must be between 0 and 2; got -1"),
        ({"index": 1, "step": 4}, "expected the key index only; got {'index': 1, 'step': 4}"),
    ],
)
def test_cycling_rejects_an_invalid_state_and_keeps_its_own(state, message):
    cycling = Cycling([0.1, 0.2, 0.3])
    cycling.update(True)
    with pytest.raises(StateError, match=re.escape(message)):
        cycling.load_state_dict(state)
    assert cycling.index == 1


def test_lambda_may_return_numbers_or_tensors():
    for fn in (lambda s: 0.1 * int(s), lambda s: torch.tensor([0.1]) * s, lambda s: 0.1 * s):
        assert float(Lambda(fn)(3)) == pytest.approx(0.3)
        assert Lambda(fn)(torch.tensor(3)).shape == ()
    assert Lambda(lambda s: s / 10).get_min_max_end(2, 4) == pytest.approx((0.2, 0.4, 0.4))


def test_bounds_are_looked_for_once_for_all_parameters_that_share_a_level():
    calls = []
    schedules = ScheduleSet()
    schedules.add("level", lambda step: calls.append(step) or step / 100)
    for _ in range(3):
        assert schedules.min_max_end("level", 10, 30) == pytest.approx([0.1, 0.3, 0.3])
    assert len(calls) == 21
    assert schedules.min_max_end("level", 0, 5)[1] == pytest.approx(0.05)
    schedules.add("level", 0.5)
    assert schedules.min_max_end("level", 10, 30) == [0.5] * 3


def test_nothing_is_cached():
    calls = []
    schedule = Lambda(lambda step: calls.append(step) or 0.5)
    schedule(1), schedule(1)
    assert calls == [1, 1]


def test_the_base_is_abstract_and_needs_only_compute():
    with pytest.raises(TypeError, match=r"abstract"):
        HyperParameterSchedule()

    class Half(HyperParameterSchedule):
        def compute(self, step):
            return torch.tensor(0.5)

    assert make_hyperparam_schedule(half := Half()) is half
    assert half(3) == 0.5
    assert half.get_min_max_end(0, 4) == (0.5, 0.5, 0.5)
    assert (half.exact(3), half.levels(), half.last_step) == (0.5, None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.5, Constant(0.5)),
        (0, Constant(0)),
        (torch.tensor(0.9), Constant(0.9)),
        (torch.tensor(0.9).half(), Constant(0.9)),
        (torch.tensor(0.9).bfloat16(), Constant(0.8984375)),
        (np.float32(0.9), Constant(0.9)),
        ([np.float32(0.9), np.float64(0.1)], Cycling([0.9, 0.1])),
        ({"type": "constant", "value": np.float16(0.9)}, Constant(0.9)),
        ([0.1, 0.2], Cycling([0.1, 0.2])),
        ({"type": "linear", "init": 0.1, "slope": 1}, Linear(0.1, 1)),
        ({"type": "EXP", "init": 0.1, "gamma": -1}, Exp(0.1, -1)),
        ({"type": "exp", "init": 0.1, "gamma": -1, "final": 0.5}, Exp(0.1, -1, 0.5)),
        ({"type": "power", "init": 0.1, "beta": 0.9}, Power(0.1, 0.9)),
        ({"type": "cosine", "init": 0.3, "half_period": 9}, Cosine(0.3, 9)),
        ({"type": "cycling", "values": [0.1]}, Cycling([0.1])),
        ({"type": "constant", "value": 0.1}, Constant(0.1)),
        ({"type": "cubic", "init": 0, "final": 0.9, "begin": 1, "end": 5}, Cubic(0, 0.9, 1, 5)),
        ({"type": "lambda", "fn": math.sqrt}, Lambda(math.sqrt)),
        (math.sqrt, Lambda(math.sqrt)),
    ],
)
def test_make(given, expected):
    assert make_hyperparam_schedule(given) == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"type": "linaer", "init": 0},
            OptionError,
            "^unknown schedule type 'linaer'; did you mean 'linear'",
        ),
        ({"type": 3}, OptionError, "^schedule type must be one of .*; got 3"),
        (
            {"init": 0.1},
            MissingOptionError,
            "needs the option 'type'; .* constant, linear",
        ),
        (
            {"type": "linear", "init": 0, "slop": 1},
            OptionError,
            "^schedule 'linear' has no option 'slop'; did you mean 'slope'",
        ),
        (
            {"type": "linear", "init": 0},
            MissingOptionError,
            "needs the option 'slope'; got ",
        ),
        (
            {"type": "linear", "init": "x", "slope": 1},
            OptionTypeError,
            "^init of Linear must be a finite number; got 'x'",
        ),
        (
            {"type": "linear", "init": math.nan, "slope": 1},
            OptionError,
            "^init of Linear must be a finite number; got nan",
        ),
        (
            {"type": "cosine", "init": 1, "half_period": 0},
            OptionError,
            "^half_period of Cosine must be .* > 0; got 0",
        ),
        ({"type": "cubic", "init": 0, "final": 1, "begin": 5, "end": 5}, OptionError, "begin = 5"),
        ([], OptionError, "at least one number"),
        (
            [0.1, "a"],
            OptionTypeError,
            r"^schedule\[1\] must be a finite number; got 'a'",
        ),
        ([0.1, True], OptionTypeError, r"^schedule\[1\] must be .* got True"),
        ([math.inf], OptionError, r"^schedule\[0\] must be .* got inf"),
        (math.nan, OptionError, "^schedule must be a finite number; got nan"),
        ("0.5", OptionTypeError, r"^schedule must be a number, .*; got '0.5' \(str\)\.$"),
        (True, OptionTypeError, r"^schedule must be a number, .*; got True \(bool\)\.$"),
        (None, OptionTypeError, r"^schedule must be a number, .*; got None\.$"),
        (
            torch.zeros(2),
            OptionTypeError,
            r"; got <float32 Tensor of shape \(2,\)>\.$",
        ),
        (Linear, OptionTypeError, "^schedule must be .*; got <class"),
    ],
)
def test_make_refuses(given, error, message):
    with pytest.raises(error, match=message):
        make_hyperparam_schedule(given)


def test_errors_name_the_option():
    with pytest.raises(OptionError, match=r"^unknown drop_fraction type 'cosin'; .*'cosine'"):
        make_hyperparam_schedule({"type": "cosin"}, "drop_fraction")
