"""Commands as real processes, with their child processes or on a terminal."""

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
    """Run a command in a separate session with extra variables; return its status and output.

    All its processes have ended when this returns or raises.
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
        # torchrun starts each worker in a separate session, so only torchrun itself can end them.
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
    """Run `sparsewright` in a folder on a terminal of given width, and return what it shows."""
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
        except OSError:  # the process has closed the terminal
            break
        if not part:
            break
        shown += part
    os.close(controller)
    assert process.wait(60) == 0
    return shown.decode()
