"""Safe reads of untrusted files, which limit the size and never wait for an unused pipe."""

from __future__ import annotations

import errno
import functools
import operator
import os
import stat
from pathlib import Path

MOST_TEXT = 1 << 20
"""Size limit in bytes for text files, such as configs."""


def check_regular(path: Path) -> None:
    """Raise OSError unless `path` is a regular file or a link to a regular file."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # the name contains NUL, so no such file exists
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from None
    _check(path, mode)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file, or a link to it.
        most: size limit in bytes; None: no limit.

    Raises:
        OSError: the file does not exist, is not a regular file, is too large, or cannot be read.
    """
    check_regular(path)
    return read_up_to(path, most)


def read_up_to(path: Path, most: int | None) -> bytes:
    """Return the content of a file of any kind, including pipes and devices.

    Raises:
        OSError: the file has more than `most` bytes, is a pipe without a writer, or cannot be
            read.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer. The shell's pipes already have one.
    handle = os.open(path, os.O_RDONLY | _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    with os.fdopen(handle, "rb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
        content = file.read(-1 if most is None else most + 1)
        is_pipe = stat.S_ISFIFO(os.fstat(handle).st_mode)
    if is_pipe and not content:
        raise OSError(errno.EPIPE, "a pipe without a writer", str(path))
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content


def open_own(path: Path) -> int:
    """Open a regular file for appending, without following a symbolic link.

    Returns:
        A file descriptor.

    Raises:
        OSError: the file is a symbolic link, is not a regular file, or cannot be opened.
    """
    if path.is_symlink():  # some systems lack O_NOFOLLOW, which also catches a link created later
        raise OSError(errno.ELOOP, "a symbolic link", str(path))
    flags = _flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | flags)
    try:
        _check(path, os.fstat(handle).st_mode)
    except OSError:
        os.close(handle)
        raise
    return handle


def _flags(*names: str) -> int:
    """Combine flags of `os.open`, except those that the system lacks."""
    return functools.reduce(operator.or_, (getattr(os, name, 0) for name in names))


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
