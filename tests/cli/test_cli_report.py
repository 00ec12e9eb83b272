"""The command `sparsewright report`, as a process, on runs of `sparsewright train`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.cli_process import Command

SECTION = {"algorithm": "set", "sparsity": 0.9, "update": {"freq": 2}}


@pytest.fixture
def runs(command: Command) -> list[Path]:
    config = command.config(sparsity=SECTION)
    for seed, name in enumerate("ab"):
        done = command("train", config, "--out", name, "--seed", seed)
        assert done.status == 0, done.err
    return [command.folder / name for name in "ab"]


def test_page_and_tables_of_real_runs(command: Command, runs: list[Path]) -> None:
    before = {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()}
    done = command("report", "a")
    assert (done.status, done.out, done.err) == (0, "a/report.html\n", "")
    text = (runs[0] / "report.html").read_text()
    assert len(text.encode()) <= 5_000_000
    assert "arXiv:1707.04780" in text
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in runs[0].rglob("*") if path.name.startswith(".")]

    done = command("report", "a", "b", "--format", "csv", "-o", "-")
    assert done.status == 0, done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {row["run"] for row in rows} == {"a", "b"}
    for row in rows:
        weights = load_file(command.folder / row["run"] / "model.safetensors")
        mask = weights[row["layer"] + "_mask"]
        assert int(row["kept"]) == mask.sum()
        assert int(row["dead_rows"]) == (~mask.any(axis=1)).sum()
        assert row["algorithm"] == "SET"

    assert command("report", "a", "b", "--format", "json").status == 0
    content = json.loads((runs[0] / "report.json").read_text())
    masks = [load_file(run / "model.safetensors") for run in runs]
    for row in content["overlap_between_runs"]:
        one, other = (weights[row["layer"] + "_mask"] for weights in masks)
        assert row["jaccard"] == pytest.approx((one & other).sum() / (one | other).sum())
    assert command("report", "b", "--format", "md", "-o", "b.md").status == 0
    assert (command.folder / "b.md").read_text().startswith("## Runs")


def test_snapshots_agree_with_the_updates(command: Command, runs: list[Path]) -> None:
    files = sorted((runs[0] / "masks").iterdir())
    steps = [int(file.stem) for file in files]
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    updates = {(x["step"], x["name"]): x for x in lines if x["event"] == "mask_update"}
    assert steps == [0, *sorted({step for step, _ in updates})]
    first, second = (
        {n: np.unpackbits(x, bitorder="little").astype(bool) for n, x in load_file(file).items()}
        for file in files[:2]
    )
    for name in first:
        update = updates[steps[1], name]
        assert update["grown"] == (second[name] & ~first[name]).sum() > 0
        assert update["dropped"] == (first[name] & ~second[name]).sum() > 0


def test_report_of_a_run_in_training(command: Command) -> None:
    config = command.config(sparsity=SECTION)
    assert command("train", config, "--out", "run", "--until", 7).status == 0
    assert command("report", "run").status == 0
    assert "not finished" in (command.folder / "run/report.html").read_text()
    # A report in the run folder does not break a later command.
    assert command("train", "--resume", "run").status == 0


def test_errors_are_one_line(command: Command, runs: list[Path]) -> None:
    (command.folder / "foreign").mkdir()
    for arguments, status, message in (
        (["nowhere"], 2, "nowhere: no such folder"),
        (["foreign"], 2, "foreign: not a run folder"),
        (["text.txt"], 2, "text.txt: no such folder"),
        (["a", "a"], 2, "a: this run is given twice"),
        (["a", "-o", "nowhere/x.html"], 1, "cannot be written: No such file"),
        (["a", "-o", "foreign"], 1, "foreign: cannot be written: it is a folder"),
        (["a", "-o", "."], 1, "error: .: cannot be written: it is a folder"),
    ):
        done = command("report", *arguments)
        assert done.status == status, done.err
        assert message in done.err
        assert done.err.count("\n") == 1
        assert done.out == ""
    assert not list((command.folder / "foreign").iterdir())
    shutil.rmtree(runs[0] / "checkpoints")
    done = command("report", "a")
    assert done.status == 1
    assert "a/checkpoints: there is no checkpoint in this folder" in done.err
    assert command("report").status == 2
    assert command("report", "b", "--format", "pdf").status == 2
