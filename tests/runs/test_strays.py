"""Test that a run leaves unknown files in its folder alone, and that they never stop it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from sparsewright.errors import CheckpointError, RunError
from sparsewright.formats.atomic import remove_folder
from sparsewright.runs import run_folder
from sparsewright.runs.run_folder import RunFolder, last_checkpoint

WEIGHTS = {"w": torch.arange(6.0)}
BITS = {"w": torch.ones(1, dtype=torch.uint8)}


def state(step: int) -> dict:
    return {"step": step, "metadata": {}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run with a checkpoint for step 2."""
    path = tmp_path / "run"
    RunFolder.create(path, "recipe: charlm\n", WEIGHTS, state(0))
    with RunFolder(path) as folder:
        folder.save_masks(0, BITS, {})
        folder.save(WEIGHTS, state(2))
    return path


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_strays_beside_the_checkpoints_stay_and_do_no_harm(run: Path) -> None:
    place = run / "checkpoints"
    for name in (".DS_Store", "Thumbs.db", ".nfs0001", "000001", "notes"):
        (place / name).write_text("mine")
    for name in ("keep-this", "000002-best", "2", "999999"):
        shutil.copytree(place / "000002", place / name)
    (place / "000777").mkdir()
    (place / "000001x").symlink_to("000002")
    before = entries(place)
    assert last_checkpoint(run).name == "000002"
    with RunFolder(run) as folder:
        folder.rewind(folder.load()[1])
        assert entries(place) == before
        folder.save(WEIGHTS, state(3))
        folder.finish({})
    assert entries(place) == sorted({*before, "000003"} - {"000002"})
    assert (place / "keep-this/state.pt").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "copy"])
def test_what_lies_where_a_checkpoint_goes_is_moved_aside(
    run: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "checkpoints/000003"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("000002")
    else:
        shutil.copytree(run / "checkpoints/000002", path)
    with RunFolder(run) as folder:
        folder.save(WEIGHTS, state(3))
        assert folder.load()[1]["step"] == 3
    moved = [name for name in entries(run / "checkpoints") if name.endswith(".moved")]
    assert len(moved) == 1
    assert f"{path} is not a checkpoint of this run; moved it to {moved[0]}" in caplog.text


def test_a_checkpoint_with_a_note_of_the_users_stays(run: Path) -> None:
    (run / "checkpoints/000002/notes.txt").write_text("the best one")
    with RunFolder(run) as folder:
        folder.save(WEIGHTS, state(3))
    assert entries(run / "checkpoints") == ["000002", "000003"]


def test_snapshots_of_others_stay(run: Path) -> None:
    with RunFolder(run) as folder:
        folder.save_masks(9, BITS, {})  # after the checkpoint
    shutil.copy(run / "masks/000000.safetensors", run / "masks/000777.safetensors")
    with RunFolder(run) as folder:
        assert folder.last_masks == 9
        folder.rewind(folder.load()[1])
        assert folder.last_masks == 0
    assert entries(run / "masks") == ["000000.safetensors", "000777.safetensors"]


def test_a_kill_before_the_older_checkpoint_is_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with RunFolder(run) as folder, monkeypatch.context() as patched:
        patched.setattr(run_folder, "remove_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.save(WEIGHTS, state(3))
    assert entries(run / "checkpoints") == ["000002", "000003"]
    with RunFolder(run) as folder:
        folder.rewind(folder.load()[1])
    assert entries(run / "checkpoints") == ["000003"]


def test_a_kill_while_the_older_checkpoint_is_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        (path / "state.pt").unlink()
        raise KeyboardInterrupt

    with RunFolder(run) as folder, monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(run / "checkpoints/000002")
        patched.undo()
        folder.save(WEIGHTS, state(3))
    with RunFolder(run) as folder:
        folder.rewind(folder.load()[1])
    assert entries(run / "checkpoints") == ["000003"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "masks", "tensorboard"])
def test_a_link_that_leads_out_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    own, outside = run / name, tmp_path / "outside"
    if own.exists():
        own.rename(outside)
    else:
        outside.mkdir()
    own.symlink_to(outside)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=rf"run/{name}.*a symbolic link"):
        RunFolder(run)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_other_links_are_replaced_and_what_they_lead_to_stays(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("result.json", "model.safetensors", "masks/000003.safetensors"):
        (run / name).symlink_to(victim if name != "result.json" else tmp_path / "nothing")
    with RunFolder(run) as folder:
        folder.rewind(folder.load()[1])
        folder.save_masks(3, BITS, {})
        folder.finish({})
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert not any(path.is_symlink() for path in run.rglob("*"))


def test_metrics_with_another_name_are_continued_in_a_copy(run: Path, tmp_path: Path) -> None:
    with RunFolder(run) as folder:
        folder.log(step=1)
    backup = tmp_path / "backup.jsonl"
    os.link(run / "metrics.jsonl", backup)
    with RunFolder(run) as folder:
        folder.log(step=2)
        with pytest.raises(RunError, match="another process is training in this folder"):
            RunFolder(run)
    assert backup.read_text() == '{"step": 1}\n'
    assert (run / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "SHA256SUMS"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "device"])
def test_a_checkpoint_of_no_files_is_named(run: Path, name: str, kind: str) -> None:
    path = run / "checkpoints/000002" / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(name if kind == "loop" else "/dev/zero")
    message = f"000002/{name}: cannot be read"
    with RunFolder(run) as folder, pytest.raises(CheckpointError, match=message):
        folder.load()


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_metrics_that_are_no_file(run: Path, kind: str) -> None:
    path = run / "metrics.jsonl"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        RunFolder(run)
