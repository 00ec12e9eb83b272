"""What in a run folder is the run's own, by its exact name and by what is in it."""

from __future__ import annotations

import json
from pathlib import Path

from sparsewright.formats.read_file import check_regular

SUMS = "SHA256SUMS"
CHECKPOINT_FILES = ("model.safetensors", "state.pt", SUMS)
_MOST_HEADER = 100_000_000  # bytes; safetensors itself reads no longer one


def name_of_step(step: int) -> str:
    """Return how a run names what belongs to a step.

    >>> name_of_step(40)
    '000040'
    """
    return f"{step:06d}"


def step_of_name(name: str) -> int | None:
    """Return the step that a run names so, or None if it names none so.

    >>> step_of_name("000040"), step_of_name("40"), step_of_name("000040-copy")
    (40, None, None)
    """
    is_number = name.isascii() and name.isdecimal() and len(name) < 20
    return int(name) if is_number and name == name_of_step(int(name)) else None


def find_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of a run's checkpoints, damaged ones too, oldest first.

    Files, links and empty folders are none, nor is a copy under the name of another step.
    """
    found = []
    for path in (run / "checkpoints").glob("*"):
        step = step_of_name(path.name)
        if step is None or path.is_symlink() or not path.is_dir():
            continue
        has_files = any((path / name).exists() for name in CHECKPOINT_FILES)
        if has_files and saved_step(path / "model.safetensors") in (None, step):
            found.append((step, path))
    return sorted(found)


def is_whole_checkpoint(path: Path) -> bool:
    """Return whether a folder is a checkpoint as a run writes it, with nothing else in it."""
    if path.is_symlink() or not path.is_dir():
        return False
    files = list(path.iterdir())
    is_plain = all(file.is_file() and not file.is_symlink() for file in files)
    names = sorted(file.name for file in files)
    is_own = saved_step(path / "model.safetensors") == step_of_name(path.name)
    return is_plain and names == sorted(CHECKPOINT_FILES) and is_own


def find_snapshots(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and files of a run's snapshots of masks, oldest first."""
    found = ((step_of_name(p.stem), p) for p in (run / "masks").glob("*.safetensors"))
    return sorted((step, path) for step, path in found if step is not None)


def saved_step(path: Path) -> object:
    """Return the step that a safetensors file of a run says it is of; None if it says none."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MOST_HEADER else {}
        return json.loads(header["__metadata__"]["sparsewright"])["step"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
