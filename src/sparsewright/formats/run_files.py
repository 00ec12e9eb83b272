"""Detection of the files that a run has written, by their exact names and their content."""

from __future__ import annotations

import json
from pathlib import Path

from sparsewright.formats.read_file import check_regular

SUMS = "SHA256SUMS"
CHECKPOINT_FILES = ("model.safetensors", "state.pt", SUMS)
_MOST_HEADER = 100_000_000  # bytes; the limit of safetensors itself


def name_of_step(step: int) -> str:
    """Return the name that a run gives to the files of a step.

    >>> name_of_step(40)
    '000040'
    """
    return f"{step:06d}"


def step_of_name(name: str) -> int | None:
    """Return the step with this name, or None if no step has this name.

    >>> step_of_name("000040"), step_of_name("40"), step_of_name("000040-copy")
    (40, None, None)
    """
    is_number = name.isascii() and name.isdecimal() and len(name) < 20
    return int(name) if is_number and name == name_of_step(int(name)) else None


def find_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of a run's checkpoints, including damaged ones, oldest first.

    Files, links, empty folders, and copies under the name of another step do not count.
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
    """Return whether a folder is a complete checkpoint of a run and contains nothing else."""
    if path.is_symlink() or not path.is_dir():
        return False
    files = list(path.iterdir())
    is_plain = all(file.is_file() and not file.is_symlink() for file in files)
    names = sorted(file.name for file in files)
    is_own = saved_step(path / "model.safetensors") == step_of_name(path.name)
    return is_plain and names == sorted(CHECKPOINT_FILES) and is_own


def find_snapshots(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and files of a run's mask snapshots, oldest first."""
    found = ((step_of_name(p.stem), p) for p in (run / "masks").glob("*.safetensors"))
    return sorted((step, path) for step, path in found if step is not None)


def saved_step(path: Path) -> object:
    """Return the step recorded in a run's safetensors file, or None if it has no such record."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MOST_HEADER else {}
        return json.loads(header["__metadata__"]["sparsewright"])["step"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
