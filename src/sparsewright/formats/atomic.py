"""Writing files whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

_DRAFT = ".part"
_IS_DRAFT = re.compile(r"\..+\.[0-9a-f]+\.part", re.DOTALL)


def draft_of(path: Path) -> Path:
    """Return a new temporary name beside `path`, to be renamed to it once it is whole.

    Not from `tempfile`, whose files nobody else may read.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it to `path`.

    A kill at any moment leaves the old file or the new one, and at most a draft.

    Raises:
        OSError: it cannot be written; the file that was there stays, and no draft does.
    """
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system can (not on Windows)."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_folder(path: Path) -> None:
    """Remove a folder; a kill at any moment leaves it whole, or gone but for a draft.

    Raises:
        OSError: something in it cannot be removed; a draft stays.
    """
    draft = draft_of(path)
    draft.mkdir()
    os.rename(path, draft / path.name)
    shutil.rmtree(draft / path.name)
    draft.rmdir()


def remove_drafts(folder: Path) -> None:
    """Remove what killed writes left in a folder and below it; nobody may be writing there.

    Raises:
        OSError: a draft cannot be removed.
    """
    for draft in list(folder.rglob(f".*{_DRAFT}")):
        if not _IS_DRAFT.fullmatch(draft.name):
            continue
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
