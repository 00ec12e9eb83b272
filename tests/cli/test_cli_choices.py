"""Every command, on a run that uses all four choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from helpers.cli_process import Command
from helpers.planned import as_json

EXAMPLE = Path(__file__).parents[2] / "examples/charlm-choices.yaml"
MLP, QKV = "blocks.0.mlp.0.weight", "blocks.0.attention.qkv.weight"


@pytest.fixture
def config(command: Command) -> Path:
    """Return the example, for a run of 20 steps."""
    section = yaml.safe_load(EXAMPLE.read_text())["sparsity"]
    for entry in section:
        entry["update"] = {"freq": 3, "stop": 15}
    return command.config(sparsity=section)


def test_train_resume_plan_inspect_and_report(command: Command, config: Path) -> None:
    planned = as_json(command("plan", config, "--json"))
    assert command("train", config, "--out", "whole").status == 0
    assert command("train", config, "--out", "parts", "--until", 7).status == 0
    resumed = command("train", "--resume", "parts")
    assert resumed.status == 0, resumed.err
    files = [command.folder / run / "model.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()

    weights = load_file(files[0])
    assert weights[MLP + "_mask"].reshape(-1, 4).sum(1).unique().tolist() == [2]
    rows = {row["name"]: row for row in planned["parameters"] if row["entry"]}
    assert {name: row["storage"] for name, row in rows.items() if name in (MLP, QKV)} == {
        MLP: "shadowed",
        QKV: "compressed",
    }
    kept = {name: int(weights[name + "_mask"].sum()) for name in rows}
    assert {name: row["kept_at_end"] for name, row in rows.items()} == kept
    levels = {name: 1 - kept[name] / rows[name]["total"] for name in rows}
    out = next(name for name in rows if "attention" in name and name != QKV)
    assert levels[out] < 0.8 < levels[QKV]  # erk

    shown = command("inspect", "whole")
    assert shown.status == 0, shown.err
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines() if line.strip()}
    assert lines[MLP][1] == str(kept[MLP])

    assert command("report", "whole", "--format", "json", "-o", "r.json").status == 0
    report = json.loads((command.folder / "r.json").read_text())
    found = {row["layer"]: row for row in report["layers"]}
    keys = ("algorithm", "distribution", "structure", "storage")
    assert [found[MLP][key] for key in keys] == ["STE", None, "NM(2, 4)", "shadowed"]
    assert [found[QKV][key] for key in keys] == ["RigL", "erk", None, "compressed"]
    assert {paper["arxiv"] for paper in report["citations"]} == {"1308.3432", "1911.11134"}
    page = command("report", "whole")
    assert page.status == 0, page.err
    text = (command.folder / "whole/report.html").read_text()
    assert "NM(2, 4)" in text
    assert "arXiv:1308.3432" in text


def test_plan_and_train_refuse_a_storage_that_an_algorithm_cannot_use(
    command: Command, config: Path
) -> None:
    content = yaml.safe_load(config.read_text())
    content["loop"]["storage"] = "masked"
    config.write_text(yaml.safe_dump(content))
    planned = command("plan", config)
    assert planned.status == 2
    assert "STE" in planned.err
    assert "'shadowed'" in planned.err
    trained = command("train", config, "--out", "run")
    assert trained.status == 2
    assert "section 'sparsity'" in trained.err
    assert "'shadowed'" in trained.err
    assert not (command.folder / "run").exists()


def test_a_structure_that_fits_no_weight_is_an_error_of_plan_and_train(command: Command) -> None:
    config = command.config(sparsity={"algorithm": "static", "structure": "3:5"})
    for done in (command("plan", config), command("train", config, "--out", "run")):
        assert done.status == 2
        assert "and whose structure fits it" in done.err
