"""Test that run folders and their files are written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sparsewright.errors import CheckpointError, RunError
from sparsewright.runs.run_folder import RunFolder, last_checkpoint

WEIGHTS = {"w": torch.arange(6.0)}


def state(step: int) -> dict:
    return {"step": step, "metadata": {}}


def make(path: Path) -> Path:
    RunFolder.create(path, "recipe: charlm\n", WEIGHTS, state(0))
    return path


def test_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        RunFolder.create(tmp_path / "run", "", {"w": "not a tensor"}, state(0))
    assert list(tmp_path.iterdir()) == []


def test_failed_checkpoint_keeps_the_one_before(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with RunFolder(run) as folder:
        with pytest.raises((TypeError, ValueError)):
            folder.save({"w": "not a tensor"}, state(1))
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["000000"]
        weights, loaded = folder.load()
    assert torch.equal(weights["w"], WEIGHTS["w"])
    assert loaded["step"] == 0


def test_a_draft_is_never_the_last_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    drafts = [run / "checkpoints/.000009.3f.part", run / "masks/.000009.safetensors.3f.part"]
    for draft in drafts:
        draft.mkdir(parents=True)
    assert last_checkpoint(run).name == "000000"
    with RunFolder(run) as folder:
        assert not any(draft.exists() for draft in drafts)
        folder.save(WEIGHTS, state(9))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000009"]
    (run / "checkpoints/000009").rename(run / "checkpoints/gone")
    with pytest.raises(CheckpointError, match="checkpoints: there is no checkpoint in this folder"):
        last_checkpoint(run)


def test_an_empty_folder_may_become_a_run_and_another_may_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    message = "mine: this path already exists; give a new or empty folder"
    with pytest.raises(RunError, match=message):
        make(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_a_run_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"^\.: a run folder needs a name; give the name of a new"):
        make(Path("."))
    assert os.listdir(tmp_path) == []


def test_lines_behind_the_checkpoint_go(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with RunFolder(run) as folder:
        folder.log(step=1)
        folder.save(WEIGHTS, state(1))
        folder.log(step=2)
    with RunFolder(run) as folder:
        folder.rewind(folder.load()[1])
        folder.log(step=2, again=True)
    assert (run / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2, "again": true}\n'
