"""Detection of the files that a run has written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from sparsewright.formats.run_files import (
    CHECKPOINT_FILES,
    find_checkpoints,
    find_snapshots,
    is_whole_checkpoint,
    name_of_step,
    saved_step,
    step_of_name,
)


def write_tensors(path: Path, step: object) -> None:
    metadata = {"sparsewright": json.dumps({"step": step})}
    safetensors.numpy.save_file({"w": np.ones(2)}, path, metadata)


def write_checkpoint(path: Path, step: int) -> Path:
    path.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        (path / name).write_text("")
    write_tensors(path / "model.safetensors", step)
    return path


@given(st.integers(0, 10**12))
def test_a_step_reads_back_from_its_name(step: int) -> None:
    assert step_of_name(name_of_step(step)) == step


@given(st.text(alphabet="0123456789.-+_ ٣²x", max_size=9))
def test_no_other_name_is_one_of_a_step(name: str) -> None:
    step = step_of_name(name)
    assert step is None or name_of_step(step) == name


def test_a_name_of_thousands_of_digits_is_none() -> None:
    assert step_of_name("9" * 5000) is None


def strays(folder: Path) -> list[Path]:
    """Create files and folders that look like checkpoints but are not, and return them."""
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "000009").write_bytes(b"x")
    (folder / "000008").mkdir()
    (folder / "000007").symlink_to("000002")
    (folder / "000006").symlink_to(write_checkpoint(folder.parent / "elsewhere", 6))
    write_checkpoint(folder / "999999", 2)  # a copy of the checkpoint of step 2
    for name in ("2", "000002-best", "000002.bak", "keep-this", "0000002"):
        write_checkpoint(folder / name, 2)
    return [path for path in folder.iterdir() if path.name != "000002"]


def test_strays_are_no_checkpoints(tmp_path: Path) -> None:
    own = write_checkpoint(tmp_path / "checkpoints/000002", 2)
    found = strays(tmp_path / "checkpoints")
    assert len(found) == 11
    assert find_checkpoints(tmp_path) == [(2, own)]
    assert [path.name for path in found if is_whole_checkpoint(path)] == []
    assert is_whole_checkpoint(own)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_found_and_is_not_whole(tmp_path: Path, name: str) -> None:
    own = write_checkpoint(tmp_path / "checkpoints/000002", 2)
    (own / name).unlink()
    assert find_checkpoints(tmp_path) == [(2, own)]
    assert not is_whole_checkpoint(own)


def test_a_checkpoint_with_something_of_the_users_is_not_the_runs_alone(tmp_path: Path) -> None:
    own = write_checkpoint(tmp_path / "checkpoints/000002", 2)
    (own / "notes.txt").write_text("the best one")
    assert find_checkpoints(tmp_path) == [(2, own)]
    assert not is_whole_checkpoint(own)


def test_snapshots_by_exact_name(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("000004", "000040", "4", "best", "9" * 300, "000004-copy"):
        (tmp_path / "masks" / f"{name[:200]}.safetensors").write_bytes(b"")
    assert [step for step, _ in find_snapshots(tmp_path)] == [4, 40]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02" + b"\0" * 7 + b"{}",
        (5).to_bytes(8, "little") + b"[" * 5,
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        (25).to_bytes(8, "little") + b'{"__metadata__": [3, 4]  }',
    ],
)
def test_a_file_that_says_no_step(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert saved_step(tmp_path / "x") is None
    assert saved_step(tmp_path) is None
    assert saved_step(tmp_path / "y") is None
