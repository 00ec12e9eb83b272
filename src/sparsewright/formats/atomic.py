"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

_DRAFT = ".part"


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


def remove_drafts(folder: Path) -> None:
    """Remove what killed writes left in a folder and below it; nobody may be writing there.

    Raises:
        OSError: a draft cannot be removed.
    """
    for draft in list(folder.rglob(f".*{_DRAFT}")):
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
