"""The set of schedules of one algorithm: sharing, updates and copies."""

import copy
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.errors import LevelError
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.utils import Constant, Cubic, Cycling, HyperParameterSchedule, Lambda, Linear


class Level(HyperParameterSchedule):
    """A user-defined constant level that counts the calls to `levels`."""

    asked = 0
    last_step = 0

    def __init__(self, value):
        self.value = value

    def compute(self, step):
        return torch.tensor(self.value)

    def levels(self):
        Level.asked += 1
        return [self.value]


OBJECTS = [Linear(0, 0.1), Linear(0, 0.1), Cycling([0.5]), Constant(0.5), Lambda(abs), Level(0.25)]
values = st.sampled_from([0.5, 0.25, 1, {"type": "constant", "value": 0.5}, *OBJECTS])


def shared_names(given):
    """Return, for each value, the name of the first identical schedule or equal constant."""
    names = []
    for index, value in enumerate(given):
        level = getattr(value, "value", value["value"] if isinstance(value, dict) else value)
        for other, name in zip(given[:index], names, strict=True):
            known = getattr(other, "value", other["value"] if isinstance(other, dict) else other)
            is_equal = isinstance(level, int | float) and level == known
            if value is other or is_equal:
                names.append(name)
                break
        else:
            names.append(str(index))
    return names


@given(st.lists(values, max_size=12))
def test_the_same_schedule_and_equal_constants_share_an_entry(given):
    schedules = ScheduleSet()
    names = [schedules.add_shared(str(index), value) for index, value in enumerate(given)]
    assert names == shared_names(given)
    assert [name for name, _ in schedules.items()] == list(dict.fromkeys(names))


def test_a_replaced_schedule_is_not_shared_any_more():
    schedules, moves = ScheduleSet(), Linear(0, 0.1)
    schedules.add_shared("a", 0.5)
    schedules.add_shared("b", moves)
    schedules.add("a", 0.7)
    schedules.add("b", 0.8)
    assert [schedules.add_shared("c", 0.5), schedules.add_shared("d", moves)] == ["c", "d"]
    assert [schedules.add_shared("e", 0.7), schedules.add_shared("f", 0.5)] == ["a", "c"]


@pytest.mark.parametrize("make", [float, Level])
def test_many_different_levels_are_added_in_linear_time(make):
    count, Level.asked = 2000, 0
    calls = calls_of(lambda: fill(count, make))
    assert calls < 100 * count
    assert Level.asked < 10 * count


def fill(count, make):
    schedules = ScheduleSet()
    for index in range(count):
        assert schedules.add_shared(str(index), make(index / count)) == str(index)


def test_updating_many_constants_makes_almost_no_calls():
    schedules = ScheduleSet()
    for index in range(2000):
        schedules.add(str(index), index / 2000)
    cycling = schedules.add("cycling", [0.1, 0.2])
    assert calls_of(lambda: schedules.update(True)) < 10
    assert cycling.index == 1


def calls_of(function):
    """Count the Python function calls that a call makes."""
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_advance_on_their_own(twin_of):
    schedules = ScheduleSet()
    schedules.add("sparsity", [0.1, 0.2, 0.3])
    schedules.add("drop_fraction", 0.5)
    twin = twin_of(schedules)
    twin.update(True), twin.update(False), twin.update(True)
    schedules.update(True)
    assert schedules.state_dict() == {"sparsity": {"index": 1}, "drop_fraction": {}}
    assert twin.state_dict() == {"sparsity": {"index": 2}, "drop_fraction": {}}
    assert float(twin.value("sparsity", 9)) == 0.3
    twin.load_state_dict(schedules.state_dict())
    twin.update(True)
    assert float(twin.value("sparsity", 9)) == 0.3
    assert twin.add_shared("other", 0.5) == "drop_fraction"


def test_the_users_schedule_does_not_advance():
    mine, schedules = Cycling([0.1, 0.2]), ScheduleSet()
    schedules.add("sparsity", mine)
    schedules.update(True)
    assert (mine.index, schedules["sparsity"].index) == (0, 1)


def test_a_replaced_schedule_does_not_advance():
    schedules = ScheduleSet()
    old = schedules.add("sparsity", [0.1, 0.2])
    new = schedules.add("sparsity", [0.3, 0.4])
    schedules.update(True)
    assert (old.index, new.index) == (0, 1)
    schedules.add("sparsity", 0.5)
    schedules.update(True)
    assert (new.index, schedules.state_dict()) == (1, {"sparsity": {}})


@given(st.floats(0, 1), st.integers(0, 50))
def test_values_are_exact_where_given_and_clamped_where_computed(level, step):
    schedules = ScheduleSet()
    for name, value in (("one", level), ("list", [level]), ("own", Level(level))):
        schedules.add(name, value)
    schedules.add("cubic", Cubic(-1, 2, 0, 50))
    assert (
        schedules.value("one", step).dtype == schedules.value("list", step).dtype == torch.float64
    )
    assert float(schedules.value("one", step)) == float(schedules.value("list", step)) == level
    assert float(schedules.value("own", step)) == float(torch.tensor(level))
    expected = float(Cubic(-1, 2, 0, 50)(step).clamp(0, 1))
    assert float(schedules.value("cubic", step)) == expected


@pytest.mark.parametrize("wrong", [1.5, [0.5, -0.1], Level(2)])
def test_levels_out_of_range_are_refused(wrong):
    with pytest.raises(
        LevelError, match=r"^drop_fraction must be between 0 and 1; got (1\.5|-0\.1|2)\.$"
    ):
        ScheduleSet().add("drop_fraction", wrong)
