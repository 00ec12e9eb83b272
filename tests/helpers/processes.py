"""Commands as real processes: with all that they start, or on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SPARSEWRIGHT = [sys.executable, "-c", "from sparsewright.cli import main; main()"]


def run_session(command: Sequence[str], env: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Status and output of a command in a session of its own, with more variables.

    All its processes are gone when this returns, whatever happened.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        # torchrun starts each worker in a session of its own: ask it first, so that it ends them.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def shown_on_a_terminal(
    arguments: Sequence[object], folder: Path, *, columns: int, **env: str
) -> str:
    """What `sparsewright` shows when run in a folder, on a terminal with so many columns."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*_SPARSEWRIGHT, *map(str, arguments)],
        cwd=folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "PYTHONUTF8": "1", **env},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(controller)
    assert process.wait(60) == 0
    return shown.decode()
