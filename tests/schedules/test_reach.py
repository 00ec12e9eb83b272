"""The check that updates reach a level's last value, compared with a run of both schedules."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsewright as sparse
from sparsewright.schedules import (
    Cosine,
    Cubic,
    Cycling,
    FreqSchedule,
    Lambda,
    Linear,
    ListSchedule,
)
from sparsewright.schedules.parse import make_hyperparam_schedule, make_update_schedule
from sparsewright.schedules.reach import why_not_reached

UPDATES = st.builds(
    lambda freq, start, length: FreqSchedule(freq, start, start + length),
    *(st.integers(1, 12), st.integers(0, 20), st.integers(1, 40)),
) | st.lists(st.integers(0, 50), min_size=1, max_size=5).map(ListSchedule)


def last_value(level, update) -> float:
    """Go through all steps and return the value after the last update."""
    found = 0.0
    for step in range(120):
        if update.is_due(step):
            found = float(level.exact(step))
        level.update(update.is_due(step))
    return found


@given(UPDATES, st.integers(0, 30), st.integers(1, 40))
def test_cubic(update, begin: int, length: int) -> None:
    level = Cubic(init=0, final=0.9, begin=begin, end=begin + length)
    is_reached = f"{last_value(level, update):.4g}" == "0.9"
    assert (why_not_reached(level, update) == "") is is_reached


@given(UPDATES, st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True))
def test_list(update, values: list[float]) -> None:
    level, seen = Cycling(values), set()
    for step in range(120):
        if update.is_due(step):
            seen.add(float(level.exact(step)))
        level.update(update.is_due(step))
    assert (why_not_reached(Cycling(values), update) == "") is (values[-1] in seen)


@pytest.mark.parametrize(
    ("level", "update"),
    [
        (0.9, {"freq": 5, "stop": 6}),
        ([0.9], {"steps": [3]}),
        (Cubic(0, 0.9, 0, 20), 5),
        (Cubic(0, 0.9, 0, 20), None),
        (Cubic(0, 0.9, 0, 20), lambda step: step == 3),
        (Linear(0, 0.01), {"freq": 5, "stop": 6}),
        (Lambda(lambda step: 0.5), {"freq": 5, "stop": 6}),
        (Cosine(0.0, 20, 0.9), {"freq": 5, "stop": 21}),
        ([0.1, 0.2], 5),
    ],
)
def test_a_schedule_without_last_value_or_last_update_is_reached(level, update) -> None:
    assert why_not_reached(make_hyperparam_schedule(level), make_update_schedule(update)) == ""


@pytest.mark.parametrize("make", [sparse.GMP, sparse.SET, sparse.RigL, sparse.STE])
def test_the_constructor_logs_it(make, caplog: pytest.LogCaptureFixture) -> None:
    cubic = {"type": "cubic", "init": 0, "final": 0.9, "begin": 0, "end": 20}
    make(sparsity=cubic, update={"freq": 5, "stop": 20})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"sparsity of {make.__name__} ends at 0.8859 instead of 0.9: "
        "the last mask update is at step 15; update at step 20 or later"
    )
    make(sparsity=cubic, update={"freq": 5, "stop": 21})
    make(sparsity=0.9 if make is not sparse.GMP else [0.1, 0.9], update=5)
    assert len(caplog.records) == 1
