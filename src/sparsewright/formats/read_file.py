"""Reading files that may be anything: never without end, never from a pipe nobody writes to."""

from __future__ import annotations

import errno
import functools
import operator
import os
import stat
from pathlib import Path

MOST_TEXT = 1 << 20
"""Bytes of the largest file of options or facts that is read."""


def check_regular(path: Path) -> None:
    """Raise OSError unless `path` is a regular file, or a link to one."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name, which no file has
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from None
    _check(path, mode)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file, or a link to it.
        most: the most bytes that it may have; None: any number.

    Raises:
        OSError: it is not there, not a regular file, too large, or cannot be read.
    """
    check_regular(path)
    return read_up_to(path, most)


def read_up_to(path: Path, most: int | None) -> bytes:
    """Return the content of a file of any kind, a pipe or a device too.

    Raises:
        OSError: it has more than `most` bytes, is a pipe that nobody writes to, or cannot be read.
    """
    # Opening a pipe would wait for somebody to write to it; the shell's have somebody by now.
    handle = os.open(path, os.O_RDONLY | _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    with os.fdopen(handle, "rb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
        content = file.read(-1 if most is None else most + 1)
        is_pipe = stat.S_ISFIFO(os.fstat(handle).st_mode)
    if is_pipe and not content:
        raise OSError(errno.EPIPE, "a pipe that nobody writes to", str(path))
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content


def open_own(path: Path) -> int:
    """Open a file for appending, and only the file of that name: no link leads elsewhere.

    Returns:
        A file descriptor.

    Raises:
        OSError: it is a symbolic link or not a regular file, or cannot be opened.
    """
    if path.is_symlink():  # O_NOFOLLOW below is for one that comes in between, where there is it
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
    """Flags of `os.open`, as far as the system has them."""
    return functools.reduce(operator.or_, (getattr(os, name, 0) for name in names))


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
