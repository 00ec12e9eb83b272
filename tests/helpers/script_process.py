"""Runs scripts as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_script(
    script: str | Path,
    folder: Path,
    *options: str,
    arguments: Sequence[str] = (),
    limit: float = 300,
) -> str:
    """Run a script in a folder and return its standard output.

    Args:
        script: text of the script, or the path of its file.
        folder: working directory.
        options: options of the interpreter.
        arguments: arguments of the script.
        limit: time limit in seconds.

    Raises:
        AssertionError: the script failed; the message has its output.
    """
    if isinstance(script, str):
        (folder / "script.py").write_text(script)
        script = folder / "script.py"
    result = subprocess.run(
        [sys.executable, *options, str(script), *arguments],
        cwd=folder,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-6000:]
    return result.stdout
