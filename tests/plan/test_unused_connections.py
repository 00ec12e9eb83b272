"""Test what a plan shows of connections that a structure prunes although the level allows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sparsewright.plan.contents import Plan
from sparsewright.plan.plan_config import plan_file
from sparsewright.plan.view import as_json, print_plan

HEADING = "rounded down by the structure  asked level   level  unused connections"


def plan_of(folder: Path, steps: int = 20, model: str = "blocks_of_17", **options: object) -> Plan:
    path = folder / "plan.yaml"
    section = {"algorithm": "static", "sparsity": 0.7, **options}
    path.write_text(yaml.safe_dump(section))
    plan, problems = plan_file(path, f"helpers.plan_models:{model}", steps)
    assert plan is not None, problems
    return plan


def lines(plan: Plan, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_plan(plan)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("structure", "kept", "unused"),
    [
        # Of 68 x 4 = 272 entries, a level of 0.7 allows floor(81.6) = 81.
        ({"type": "block", "shape": [4, 4]}, 5 * 16, 1),  # 5 of 17 blocks
        ({"type": "block", "shape": [34, 2]}, 1 * 68, 13),  # 1 of 4 blocks
        ({"type": "channel", "axis": 0}, 20 * 4, 1),  # 20 of 68 outputs
        ({"type": "channel", "axis": 1}, 1 * 68, 13),  # 1 of 4 inputs
        ("fan_in", 68 * 1, 13),  # 1 of 4 inputs in each of 68 rows
        ({"type": "groups", "outputs": 17}, 17 * 4, 13),  # 4 of 16 entries in each of 17 groups
        (None, 81, 0),
    ],
    ids=str,
)
def test_connections_that_rounding_prunes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    structure: object,
    kept: int,
    unused: int,
) -> None:
    plan = plan_of(tmp_path, structure=structure)
    (weight,) = plan.sparse
    assert (weight.kept, weight.unused) == ((kept, kept), (unused, unused))
    (shown,) = (w for w in as_json(plan)["parameters"] if w["entry"])
    assert (shown["level_at_start"], shown["level_at_end"]) == (0.7, 0.7)
    assert (shown["unused_at_start"], shown["unused_at_end"]) == (unused, unused)
    shown = lines(plan, capsys)
    level = f"{1 - kept / 272:.4f}"
    assert shown[1].split() == ["weight", "68x4", "sparsity", f"{kept}", f"{kept}", level]
    if not unused:
        assert HEADING not in "\n".join(shown)
        return
    where = shown.index(HEADING)
    row = ["weight", "0.7000", level, f"{unused}", f"{unused / 81:.1%}"]
    assert (shown[where + 1].split(), shown[where + 2]) == (row, "")


def test_the_levels_of_a_distribution_are_those_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uniform+ prunes 0.5 * 2008 entries, of which the dense convolution has none."""
    options = {"param_filter": "*weight", "distribution": "uniform_plus", "sparsity": 0.5}
    plan = plan_of(tmp_path, model="conv_first", structure="fan_in", **options)
    by_name = {weight.name: weight for weight in plan.sparse}
    level = 0.5 * (216 + 1152 + 640) / (1152 + 640)
    assert [w.levels[1] for w in plan.sparse] == pytest.approx([0.0, level, level])
    # At the density 0.4397, rows keep floor(31.7) of 72 and floor(28.1) of 64 inputs.
    assert [w.kept[1] for w in plan.sparse] == [216, 16 * 31, 10 * 28]
    assert [w.unused[1] for w in plan.sparse] == [0, 506 - 496, 281 - 280]
    shown = lines(plan, capsys)
    rows = {line.split()[0]: line for line in shown if line}
    assert rows["0.weight"].endswith("dense: first layer, a convolution")
    assert by_name["3.weight"].why_level == "by uniform_plus"
    where = next(i for i, line in enumerate(shown) if line.startswith("rounded down"))
    # The largest share comes first.
    assert [line.split() for line in shown[where + 1 : where + 4]] == [
        ["1.weight", "0.5603", "0.5694", "10", "2.0%"],
        ["3.weight", "0.5603", "0.5625", "1", "0.4%"],
        ["all", "of", "these", "11", "1.4%"],
    ]


def test_the_table_lists_the_largest_shares_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path, model="many", structure="fan_in")
    shown = lines(plan, capsys)
    where = next(i for i, line in enumerate(shown) if line.startswith("rounded down"))
    # Weight i has 10 i rows of 4 inputs, each of which keeps 1 of the 1.2 that the level allows.
    # Of 6 inputs, it keeps 1 of 1.8.
    assert [w.unused[1] for w in plan.sparse] == [*(2 * i for i in range(1, 15)), 8]
    found = [line.split()[0] for line in shown[where + 1 : where + 11]]
    assert found == ["14.weight", *(f"{i}.weight" for i in range(9))]
    assert shown[where + 11].split() == ["these", "and", "5", "more", "218", "17.1%"]
    assert shown[where + 12] == ""
    assert max(map(len, shown[where : where + 12])) <= 100


def test_ablation_decides_during_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure = {"type": "fan_in", "ablate": 0.1}
    plan = plan_of(tmp_path, algorithm="rigl", update=5, structure=structure)
    (weight,) = plan.sparse
    assert (weight.unused, weight.levels) == ((None, None), (0.7, 0.7))
    assert weight.estimate == (81, 81)
    (note,) = (note for note in plan.notes if "decides" in note)
    assert note == (
        "sparsity: FanIn(ablate=0.1) decides during training how many connections a weight keeps; "
        "costs assume the count that the level allows"
    )
    row = lines(plan, capsys)[1]
    assert row.split()[3:] == ["?", "?", "~0.7000"]


def test_counts_over_a_rising_level(tmp_path: Path) -> None:
    rising = {"type": "linear", "init": 0, "slope": 0.025}
    structure = {"type": "block", "shape": [4, 4]}
    update = {"freq": 10, "start": 10}
    plan = plan_of(
        tmp_path, 40, algorithm="gmp", sparsity=rising, update=update, structure=structure
    )
    (weight,) = plan.sparse
    # Steps at the levels 0 (dense), 0.25, 0.5 and 0.75: 17, 12, 8 and 4 of 17 blocks. The level
    # 1.0 follows the last step.
    assert list(weight.course) == [272, 12 * 16, 8 * 16, 4 * 16]
    assert weight.kept == (272, 0)
    assert weight.levels == (0.0, 1.0)


@pytest.mark.parametrize("algorithm", ["set", "static"])
def test_levels_that_depend_on_the_weights_are_unknown(tmp_path: Path, algorithm: str) -> None:
    update = {"update": 5} if algorithm == "set" else {}
    plan = plan_of(tmp_path, algorithm=algorithm, distribution="global", **update)
    (weight,) = plan.sparse
    assert (weight.levels, weight.unused) == ((None, None), (None, None))
    assert weight.estimate == (81, 81)
