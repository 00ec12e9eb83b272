"""Test the reading of run folders, and errors that name the damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from helpers.report_runs import WrittenRun, random_masks, write_run, write_snapshot
from sparsewright.errors import CheckpointError, ConfigError
from sparsewright.report.read import read_run, read_runs

SHAPES = {"b.10.weight": (6, 3, 2, 2), "b.9.weight": (7, 9)}


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    masks = {step: random_masks(SHAPES, 0.8, step) for step in (0, 4, 9, 12)}
    return write_run(tmp_path / "run", masks)


def test_masks_and_names_are_read(run: WrittenRun) -> None:
    read = read_run(run.path)
    assert list(read.layers) == ["b.9.weight", "b.10.weight"]
    assert (read.layers["b.10.weight"].shape, read.layers["b.10.weight"].matrix) == (
        (6, 3, 2, 2),
        (6, 12),
    )
    assert sorted(read.bits) == [0, 4, 9, 12]
    for step, masks in run.masks.items():
        for name, mask in masks.items():
            assert np.array_equal(read.mask(name, step), mask.reshape(len(mask), -1))
            assert read.kept(name, step) == mask.sum()
    assert np.array_equal(read.mask("b.9.weight"), run.masks[12]["b.9.weight"])
    assert read.layers["b.9.weight"].algorithm == "RigL"
    assert read.versions[0]["versions"]["torch"] == "2.13.0"
    assert read.finished


def test_overlap_of_updates_follows_from_the_counts(run: WrittenRun) -> None:
    read = read_run(run.path)
    steps = sorted(run.masks)
    for name in SHAPES:
        lines = read.metrics.updates[name]
        assert [line["step"] for line in lines] == steps[1:]
        for line, before in zip(lines, steps, strict=False):
            old, new = run.masks[before][name], run.masks[line["step"]][name]
            assert line["overlap"] == pytest.approx((old & new).sum() / (old | new).sum())
            assert line["churn"] == pytest.approx((new ^ old).sum() / new.sum())


def test_unfinished_run_is_read_at_its_last_checkpoint(run: WrittenRun) -> None:
    (run.path / "result.json").unlink()
    (run.path / "model.safetensors").unlink()
    masks = random_masks(SHAPES, 0.8, 20)
    write_snapshot(run.path / "masks/000020.safetensors", 20, masks, "RigL")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 13, "loss": NaN}\n{"event": "st')
    read = read_run(run.path)
    assert not read.finished
    assert sorted(read.bits) == [0, 4, 9, 12]  # a resume would remove the snapshot of step 20
    assert read.metrics.steps[-1]["step"] == 13
    assert read.metrics.steps[-1]["loss"] is None


def test_runs_of_before_snapshots_are_read(run: WrittenRun) -> None:
    for file in (run.path / "masks").iterdir():
        file.unlink()
    (run.path / "versions.json").unlink()
    read = read_run(run.path)
    assert sorted(read.bits) == [12]
    assert (read.versions, read.layers["b.9.weight"].algorithm) == ([], "")


def test_foreign_folders_are_refused(tmp_path: Path, run: WrittenRun) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder; give a run folder made by"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"not a run folder \(no config\.yaml\)"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="this run is given twice"):
        read_runs([run.path, run.path / ".." / "run"])


def rewrite_line(run: Path, **values: object) -> None:
    """Change the first mask update of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    next(line for line in lines if line["event"] == "mask_update").update(values)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewrite_snapshot(run: Path, change: Callable[[dict[str, np.ndarray], dict], None]) -> None:
    """Change the tensors and the metadata of the first snapshot."""
    file = run / "masks/000000.safetensors"
    tensors = safetensors.numpy.load_file(file)
    layers = {name: {"shape": list(shape)} for name, shape in SHAPES.items()}
    stored = {"step": 0, "layers": layers}
    change(tensors, stored)
    safetensors.numpy.save_file(tensors, file, {"sparsewright": json.dumps(stored)})


def set_last_bit(tensors: dict[str, np.ndarray], stored: dict) -> None:
    tensors["b.9.weight"][-1] |= 128  # with 63 entries, the last bit is unused


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "config": (lambda run: (run / "config.yaml").write_text("a: ["), "line 1, column 5: "),
    "config code": (
        lambda run: (run / "config.yaml").write_text("!!python/object/apply:os.getcwd []"),
        "line 1, column 1: could not determine a constructor",
    ),
    "config list": (
        lambda run: (run / "config.yaml").write_text("[1]"),
        "expected a mapping of sections to values, got a list",
    ),
    "weights": (
        lambda run: (run / "model.safetensors").write_bytes(b"\xff" * 64),
        "not a safetensors file",
    ),
    "no masks": (
        lambda run: safetensors.numpy.save_file({"a": np.ones(2)}, run / "model.safetensors"),
        "the file has no masks",
    ),
    "float mask": (
        lambda run: safetensors.numpy.save_file(
            {"a": np.ones(2), "a_mask": np.ones(2)}, run / "model.safetensors"
        ),
        r"expected a bool mask with its weight's shape for a_mask, got float64 of shape \(2,\)",
    ),
    "no checkpoint": (
        lambda run: (run / "checkpoints").rename(run / "gone"),
        "checkpoints: there is no checkpoint in this folder",
    ),
    "metrics": (
        lambda run: (run / "metrics.jsonl").write_text("{}\nx\n"),
        "line 1: step must be an integer >= 0; got None",
    ),
    "not JSON": (lambda run: (run / "metrics.jsonl").write_text("x\n"), "line 1 is not JSON"),
    "list": (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "line 1 is not a JSON object"),
    "layer": (lambda run: rewrite_line(run, name="x"), "the run has no layer 'x' with a mask"),
    "kept": (
        lambda run: rewrite_line(run, kept=10**9),
        r"kept, dropped and grown must be integers between 0 and 72; got \[1000000000, ",
    ),
    "kept text": (
        lambda run: rewrite_line(run, kept="<b>"),
        r"kept, dropped and grown must be integers between 0 and 72; got \['<b>', ",
    ),
    "counts": (
        lambda run: rewrite_line(run, grown=40, kept=1),
        r"kept, dropped and grown = \[1, \d+, 40\] contradict each other",
    ),
    "step": (
        lambda run: rewrite_line(run, step=-1),
        "step must be an integer >= 0; got -1",
    ),
    "versions": (
        lambda run: (run / "versions.json").write_text('{"a": 1}'),
        "versions.json: not a list of versions",
    ),
    "snapshot": (
        lambda run: (run / "masks/000000.safetensors").write_bytes(b"x"),
        "not a safetensors file",
    ),
    "snapshot step": (
        lambda run: rewrite_snapshot(run, lambda tensors, stored: stored.update(step=3)),
        "the file name does not match step 3 in the metadata",
    ),
    "snapshot metadata": (
        lambda run: rewrite_snapshot(run, lambda tensors, stored: stored.update(layers=3)),
        "not a mask snapshot: its metadata are missing or invalid",
    ),
    "snapshot shape": (
        lambda run: rewrite_snapshot(
            run, lambda tensors, stored: stored["layers"]["b.9.weight"].update(shape=[9, 7])
        ),
        "its layers differ from those of the last checkpoint",
    ),
    "snapshot tensors": (
        lambda run: rewrite_snapshot(run, lambda tensors, stored: tensors.pop("b.9.weight")),
        "its tensors do not match the layers in its metadata",
    ),
    "snapshot size": (
        lambda run: rewrite_snapshot(
            run, lambda tensors, _: tensors.update({"b.9.weight": np.zeros(3, np.uint8)})
        ),
        "b.9.weight is not a packed mask: ",
    ),
    "snapshot bits": (lambda run: rewrite_snapshot(run, set_last_bit), "bits are set beyond"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(run: WrittenRun, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(run.path)
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        read_run(run.path)
    assert str(run.path) in str(caught.value)
    assert "\n" not in str(caught.value)
