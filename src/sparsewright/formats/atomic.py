"""Atomic file writes, which write a whole file or nothing."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

_DRAFT = ".part"
_IS_DRAFT = re.compile(r"\..+\.[0-9a-f]+\.part", re.DOTALL)


def draft_of(path: Path) -> Path:
    """Return a new temporary name next to `path`, for a file that is renamed to `path` later.

    `tempfile` is not used, because only the owner can read its files.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it to `path`.

    If the process is killed, either the old file or the new file remains, and at most one draft.

    Raises:
        OSError: the file cannot be written; the old file stays, and no draft remains.
    """
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(draft):
            error.filename = str(path)  # the user does not know the draft
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, on systems that support it (not on Windows)."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_folder(path: Path) -> None:
    """Remove a folder; if the process is killed, the whole folder or only a draft remains.

    Raises:
        OSError: something in the folder cannot be removed; a draft remains.
    """
    draft = draft_of(path)
    draft.mkdir()
    os.rename(path, draft / path.name)
    shutil.rmtree(draft / path.name)
    draft.rmdir()


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder and its subfolders.

    No process may be writing to the folder at the same time.

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
