"""The command `sparsewright info`, as a process."""

import os
import subprocess
import sys

import torch

COMMAND = [sys.executable, "-c", "from sparsewright.cli import main; main()", "info"]


def info(**environment):
    result = subprocess.run(
        COMMAND, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_says_what_runs_here():
    shown = info()
    assert torch.__version__ in shown
    assert "kernels" in shown


def test_says_why_native_kernels_are_off():
    shown = info(SPARSEWRIGHT_KERNELS="reference")
    assert "reference" in shown
    assert "disabled by SPARSEWRIGHT_KERNELS=reference" in shown
