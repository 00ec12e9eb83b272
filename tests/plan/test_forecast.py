"""Test forecasts against real training."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright.core.counts import as_decimal
from sparsewright.plan.forecast import POINTS, forecast, guess_steps

CASES = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(
        {"type": "cosine", "init": 0.4, "half_period": 20}, sparsity=0.75, update={"freq": 5}
    ),
    "gmp dense at first": lambda: sparse.GMP(
        {"type": "cubic", "init": 0.0, "final": 0.9, "begin": 3, "end": 20},
        {"freq": 4, "start": 3, "stop": 23},
    ),
    "cubic": lambda: sparse.GMP(
        {"type": "cubic", "init": 0.1, "final": 0.9, "begin": 3, "end": 40}, 5
    ),
    "cycling": lambda: sparse.SET(
        [0.1, 0.2, 0.3], sparsity=[0.5, 0.6, 0.7, 0.8], update={"steps": [0, 2, 3, 11, 29]}
    ),
    "functions": lambda: sparse.SET(
        lambda step: 0.01 * float(step), sparsity=lambda step: 0.02 * float(step),
        update=lambda step: step % 7 == 2,
    ),
}  # fmt: skip
STEPS = 30


@pytest.mark.parametrize("case", CASES)
def test_forecast_equals_training(case: str) -> None:
    expected = forecast(CASES[case](), STEPS)
    algorithm, model = CASES[case](), make_mlp(inputs=8, hidden=40)
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.01)
    algorithm.apply(optimizer)
    updates, drops = [], []
    algorithm.register_mask_update_hook(lambda update: updates.append(update))
    if "drop_fraction" in dict(algorithm.schedules.items()):
        algorithm.register_mask_update_hook(
            lambda update: drops.append(
                (update.step, float(as_decimal(algorithm.scheduled("drop_fraction"))))
            )
        )
    total = model[0].weight.numel()
    levels = [1 - int(model[0].weight_mask.sum()) / total]
    for step in range(STEPS):
        train(model, optimizer, 1, start=step)
        levels.append(1 - int(model[0].weight_mask.sum()) / total)
    assert [step for step, _ in expected.level] == list(range(STEPS + 1))
    for step, level in expected.level:
        assert levels[step] == pytest.approx(level, abs=1.01 / total), step
    assert list(expected.updates) == sorted({update.step for update in updates})
    assert expected.drop_fraction == sorted(set(drops))


def test_the_algorithm_stays_as_it_is() -> None:
    algorithm = CASES["cycling"]()
    before = algorithm.state_dict()
    forecast(algorithm, STEPS)
    assert algorithm.state_dict() == before


def test_long_runs_are_sampled() -> None:
    long = forecast(CASES["rigl"](), 1_000_000)
    assert len(long.level) == POINTS
    assert len(long.updates) == 200_000
    assert long.level[-1][0] == 1_000_000
    assert len(long.drop_fraction) == POINTS - 1
    assert torch.tensor(long.level)[:, 1].unique().numel() == 1


@pytest.mark.parametrize(
    ("case", "steps"),
    [("static", 1000), ("rigl", 20), ("gmp dense at first", 23), ("cubic", 40), ("cycling", 29)],
)
def test_a_run_is_as_long_as_its_schedules(case: str, steps: int) -> None:
    assert guess_steps([CASES["static"](), CASES[case]()]) == steps
