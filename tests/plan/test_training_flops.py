"""Test FLOPs over a run against hand-computed numbers and the formulas of the papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sparsewright.algorithms import ALL
from sparsewright.plan.contents import Plan
from sparsewright.plan.phases import flops_of_steps, inference_flops, relative_flops
from sparsewright.plan.plan_config import plan_file
from sparsewright.plan.view import as_json, print_plan

# Two products of each weight and output position: (out, in * kernel) x positions, for a batch of 2.
CONV_1 = 2 * 2 * (8 * 27) * (4 * 4)
CONV_2 = 2 * 2 * (16 * 72) * (2 * 2)
LINEAR = 2 * 2 * (10 * 64)
DENSE = 13_824 + 18_432 + 2_560
SPARSE = DENSE / 4  # a level of 0.75 keeps 54 of 216, 288 of 1152 and 160 of 640 entries


def plan_of(folder: Path, section: object, steps: int, model: str = "conv_first") -> Plan:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(section))
    plan, problems = plan_file(path, f"helpers.plan_models:{model}", steps)
    assert plan is not None, problems
    return plan


def config(algorithm: str, **options: object) -> dict[str, object]:
    return {"algorithm": algorithm, "sparsity": 0.75, "param_filter": "*weight", **options}


RISING = {"type": "linear", "init": 0, "slope": 0.0125}
EXPECTED = {
    # algorithm -> (config, steps, mean FLOPs of a training step)
    "static": (config("static"), 100, 3 * SPARSE),
    "set": (config("set", update=10), 100, 3 * SPARSE),
    # RigL's formula with dT = 9: one of dT + 1 = 10 steps updates the masks.
    "rigl": (config("rigl", update=10), 100, (3 * SPARSE * 9 + 2 * SPARSE + DENSE) / 10),
    # 20 steps each at the levels 0, 0.25 and 0.5; the last update is after the last step.
    "gmp": (config("gmp", sparsity=RISING, update={"freq": 20, "start": 20}), 60, 2.25 * DENSE),
    "ste": (config("ste", update=10), 100, 2 * SPARSE + DENSE),
}


def test_the_hand_computed_numbers_of_the_model() -> None:
    assert (CONV_1, CONV_2, LINEAR) == (13_824, 18_432, 2_560)
    assert set(EXPECTED) == {cls.name for cls in ALL}


@pytest.mark.parametrize("name", EXPECTED)
def test_training_flops_of_each_algorithm(tmp_path: Path, name: str) -> None:
    section, steps, mean = EXPECTED[name]
    plan = plan_of(tmp_path, section, steps)
    assert plan.flops == {"0.weight": CONV_1, "1.weight": CONV_2, "3.weight": LINEAR}
    flops, inference = flops_of_steps(plan), inference_flops(plan)
    assert flops["dense"] == 3 * DENSE
    assert flops["end"] == (2 * SPARSE + DENSE if name == "ste" else 3 * SPARSE)
    assert flops["mean"] == pytest.approx(mean)
    assert inference == {"dense": DENSE, "end": SPARSE}
    (entry,) = plan.entries
    expected = {"training": mean / (3 * DENSE), "inference": 0.25}
    assert relative_flops(plan, entry) == pytest.approx(expected)
    shown = as_json(plan)
    assert shown["inference_flops"] == inference
    assert shown["entries"][0]["relative_flops"] == pytest.approx(expected)


def test_updates_that_stop_and_a_dense_start(tmp_path: Path) -> None:
    section = config("rigl", update={"freq": 10, "start": 10, "stop": 41})
    plan = plan_of(tmp_path, section, 100)
    # Steps 1 to 10 are dense. After that, the steps 20, 30 and 40 need the dense gradient.
    total = 10 * 3 * DENSE + 87 * 3 * SPARSE + 3 * (2 * SPARSE + DENSE)
    assert flops_of_steps(plan)["mean"] == pytest.approx(total / 100)
    assert flops_of_steps(plan)["start"] == 3 * DENSE


def test_each_entry_has_the_flops_of_its_own_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = [
        {"algorithm": "static", "sparsity": 0.5, "param_filter": "3.weight"},
        {"algorithm": "rigl", "sparsity": 0.75, "update": 4, "param_filter": "1.weight"},
    ]
    plan = plan_of(tmp_path, section, 100)
    first, second = (relative_flops(plan, entry) for entry in plan.entries)
    assert first == pytest.approx({"training": 0.5, "inference": 0.5})
    rigl = (3 * 3 * 0.25 + 2 * 0.25 + 1) / 4 / 3
    assert second == pytest.approx({"training": rigl, "inference": 0.25})
    mean = 3 * CONV_1 + 3 * LINEAR / 2 + 3 * rigl * CONV_2
    assert flops_of_steps(plan)["mean"] == pytest.approx(mean)
    print_plan(plan)
    out = capsys.readouterr().out
    assert "  FLOPs    50.0% of dense training, 50.0% of dense inference\n" in out
    assert "  FLOPs    31.2% of dense training, 25.0% of dense inference\n" in out
    # 13,824 + 2,560 / 2 + 18,432 / 4 = 19,712 of 34,816
    assert "Inference takes 19.7 k FLOPs after training, 56.6% of the dense network's" in out


@pytest.mark.parametrize("kind", ["erk", "uniform_plus", "global"])
def test_a_rising_level_is_divided_again_at_each_update(tmp_path: Path, kind: str) -> None:
    rising = {"type": "cubic", "init": 0.0, "final": 0.6, "begin": 0, "end": 100}
    section = config("gmp", sparsity=rising, update=20, distribution=kind)
    plan = plan_of(tmp_path, section, 100)
    total = 0.0
    for stretch in plan.entries[0].forecast.stretches:
        assert (stretch.steps, stretch.updates) == (20, 1)
        level = stretch.level
        fixed = {**section, "algorithm": "static", "sparsity": level, "update": None}
        fixed.pop("update")
        total += flops_of_steps(plan_of(tmp_path, fixed, 100))["end"]
    assert len(plan.entries[0].forecast.stretches) == 5
    assert flops_of_steps(plan)["mean"] == pytest.approx(total / 5)


def test_a_run_with_very_many_updates_has_few_stretches(tmp_path: Path) -> None:
    rising = {"type": "cubic", "init": 0.0, "final": 0.75, "begin": 0, "end": 1_000_000}
    plan = plan_of(tmp_path, config("gmp", sparsity=rising, update=1), 1_000_000)
    stretches = plan.entries[0].forecast.stretches
    assert len(stretches) <= 101
    assert sum(s.steps for s in stretches) == sum(s.updates for s in stretches) == 1_000_000
    # The mean of 1 - 0.75 * (1 - (1 - t)**3) over t in 0..1 is 1 - 0.75 * 0.75.
    assert flops_of_steps(plan)["mean"] == pytest.approx(3 * DENSE * 0.4375, rel=5e-3)


def test_a_cycling_level_counts_with_its_mean(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, config("set", sparsity=[0.25, 0.75], update=1), 1000)
    assert flops_of_steps(plan)["mean"] == pytest.approx(3 * DENSE / 2, rel=5e-3)


@pytest.mark.parametrize(
    ("structure", "additions"),
    [
        (None, 0),
        ({"type": "block", "shape": [2, 1]}, 1),
        ({"type": "channel", "axis": 1}, 1),
        ("1:4", 0),
    ],
    ids=str,
)
def test_an_update_scores_the_units_of_the_structure(
    tmp_path: Path, structure: object, additions: int
) -> None:
    """Count one addition per entry if a unit has several entries."""
    section = config("rigl", update=10, structure=structure, param_filter="1.weight")
    plan = plan_of(tmp_path, section, 100)
    flops, share = flops_of_steps(plan), plan.sparse[0].estimate[1] / 1152
    update = 3 * (CONV_1 + LINEAR) + (2 * share + 1) * CONV_2
    # RigL selects twice: what it drops and what it grows.
    assert flops["last update"] == pytest.approx(update + 2 * additions * 1152)
    mean = 3 * (CONV_1 + LINEAR) + ((27 + 2) * share + 1) * CONV_2 / 10
    assert flops["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(("level", "share"), [(0.8, 0.41), (0.9, 0.24), (0.95, 0.12)])
def test_erk_on_resnet_50_takes_the_published_flops(
    tmp_path: Path, level: float, share: float
) -> None:
    """Compare with the counts of RigL's code, if all 54 weights are sparse."""
    section = config("static", sparsity=level, distribution="erk")
    section["param_filter"] = ["*convolution.weight", "classifier.1.weight"]
    plan = plan_of(tmp_path, section, 100, "resnet_50")
    assert len(plan.sparse) == 54
    flops = inference_flops(plan)
    assert flops["dense"] == pytest.approx(8.2e9, rel=5e-3)
    assert flops["end"] / flops["dense"] == pytest.approx(share, abs=0.005)
