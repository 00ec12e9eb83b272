"""Update schedules, compared with lists of steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.errors import ExclusiveOptionsError, OptionError, OptionTypeError
from sparsewright.utils import FreqSchedule, ListSchedule, UpdateSchedule, make_update_schedule


@given(st.integers(1, 9), st.integers(0, 30), st.none() | st.integers(1, 60))
def test_frequency(freq, start, length):
    stop = None if length is None else start + length
    schedule = FreqSchedule(freq, start, stop)
    expected = list(range(start, 80 if stop is None else min(stop, 80), freq))
    assert [step for step in range(80) if schedule(step)] == expected
    assert [step for step in range(80) if schedule.is_update_step(torch.tensor(step))] == expected


@given(st.lists(st.integers(0, 40)))
def test_list(steps):
    schedule = ListSchedule(steps)
    assert [step for step in range(50) if schedule(step)] == sorted(set(steps))


@pytest.mark.parametrize(
    "schedule",
    [FreqSchedule(2), FreqSchedule(2, 1, 9), ListSchedule([4]), make_update_schedule(lambda s: 1)],
)
def test_result_is_a_0d_bool_tensor_on_the_device_of_the_step(schedule):
    for step in (4, torch.tensor(4), torch.tensor(4, device="meta")):
        result = schedule(step)
        assert result.shape == ()
        assert result.dtype == torch.bool
        assert result.device == torch.as_tensor(step).device


@pytest.mark.parametrize(
    ("update", "steps"),
    [
        (None, list(range(12))),
        ({}, list(range(12))),
        (5, [0, 5, 10]),
        ({"freq": 5}, [0, 5, 10]),
        ({"freq": 5, "start": 2, "stop": 12}, [2, 7]),
        ({"freq": 5, "start": None, "stop": None}, [0, 5, 10]),
        ({"start": 9}, [9, 10, 11]),
        ({"steps": [7, 3, 3]}, [3, 7]),
        ({"steps": []}, []),
        (lambda step: step in (1, 4), [1, 4]),
        (lambda step: torch.tensor(step == 2), [2]),
        (FreqSchedule(6), [0, 6]),
    ],
)
def test_make(update, steps):
    schedule = make_update_schedule(update)
    assert isinstance(schedule, UpdateSchedule)
    assert [step for step in range(12) if schedule(step)] == steps


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        ({"frq": 5}, OptionError, "^update has no option 'frq'; did you mean 'freq'"),
        (
            {"steps": [1], "freq": 5},
            ExclusiveOptionsError,
            r"^update accepts freq/start/stop or steps, not both\.$",
        ),
        ({"freq": 0}, OptionError, r"^freq must be an integer >= 1; got 0\.$"),
        (0, OptionError, r"^update must be an integer >= 1; got 0\.$"),
        ({"start": -1}, OptionError, r"^start must be an integer >= 0; got -1\.$"),
        ({"stop": -1}, OptionError, r"^stop must be an integer >= 0; got -1\.$"),
        ({"stop": 0}, OptionError, "^stop must be greater than start = 0; got 0"),
        ({"start": 10, "stop": 5}, OptionError, "^stop must be greater than start = 10; got 5"),
        ({"start": 5, "stop": 5}, OptionError, "^stop must be greater than start = 5; got 5"),
        (
            {"freq": 10**5000},
            OptionError,
            r"^freq must be an integer >= 1 and <= 2\*\*53; got <int>",
        ),
        ({"freq": 2.5}, OptionTypeError, r"^freq must be an integer >= 1; got 2\.5 \(float\)\.$"),
        ({"freq": None}, OptionTypeError, r"^freq must be an integer >= 1; got None\.$"),
        ({"start": False}, OptionTypeError, "^start must be .*; got False"),
        ({"start": ""}, OptionTypeError, "^start must be .*; got ''"),
        (
            {"steps": 5},
            OptionTypeError,
            r"^steps must be a list of integers >= 0; got 5 \(int\)\.$",
        ),
        (
            {"steps": [1, "2"]},
            OptionTypeError,
            "^an entry of steps must be an integer >= 0; got '2'",
        ),
        ({"steps": [-1]}, OptionError, r"^an entry of steps must be an integer >= 0; got -1\.$"),
        (True, OptionTypeError, r"^update must be None, .*; got True \(bool\)\.$"),
        ("5", OptionTypeError, r"^update must be None, .*; got '5' \(str\)\.$"),
        (2.0, OptionTypeError, r"^update must be None, .*; got 2\.0 \(float\)\.$"),
        (FreqSchedule, OptionTypeError, "^update must be .*; got <class"),
    ],
)
def test_make_refuses(update, error, message):
    with pytest.raises(error, match=message):
        make_update_schedule(update)


class Primes(UpdateSchedule):
    """A user-defined schedule that implements only the required method."""

    def is_update_step(self, step):
        prime = int(step) > 1 and all(int(step) % n for n in range(2, int(step)))
        return torch.tensor(prime)


HORIZON = 90  # later than the last step of every schedule that ends
frequencies = st.builds(
    lambda freq, start, length: FreqSchedule(freq, start, length and start + length),
    st.integers(1, 9),
    st.integers(0, 30),
    st.none() | st.integers(1, 50),
)
lists = st.lists(st.integers(0, 80)).map(ListSchedule)
functions = st.integers(1, 9).map(lambda n: make_update_schedule(lambda step: step % n == 2))


@given(frequencies | lists | functions | st.just(Primes()), st.integers(-3, HORIZON))
def test_steps_agrees_with_calls_for_each_step(schedule, until):
    expected = [step for step in range(until + 1) if schedule(step)]
    assert list(schedule.steps(until)) == expected


@given(frequencies | lists)
def test_first_and_last_step(schedule):
    due = [step for step in range(HORIZON) if schedule(step)]
    is_endless = isinstance(schedule, FreqSchedule) and schedule.stop is None
    assert schedule.first_step == (due[0] if due else None)
    assert schedule.last_step == (due[-1] if due and not is_endless else None)


def test_a_function_has_no_known_first_or_last_step():
    for schedule in (Primes(), make_update_schedule(lambda step: False)):
        assert schedule.first_step is schedule.last_step is schedule.planned_steps is None


def test_planned_steps():
    schedules = [FreqSchedule(5, 0, 12), FreqSchedule(5), ListSchedule([9, 2]), ListSchedule([])]
    assert [schedule.planned_steps for schedule in schedules] == [12, None, 9, None]


def test_regular_steps_take_no_memory():
    steps = FreqSchedule(100, 50).steps(10**15)
    assert (type(steps), len(steps), steps[-1]) == (range, 10**13, 10**15 - 50)
    assert FreqSchedule(1, 0, 10**15).last_step == 10**15 - 1


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match=r"abstract"):
        UpdateSchedule()
