"""The command `sparsewright info`."""

from __future__ import annotations

import platform

import click
import numpy
import torch

import sparsewright
from sparsewright import kernels
from sparsewright.cli.exit_status import reports_errors


@click.command()
@reports_errors
def info() -> int:
    """Print versions, threads and active kernels.

    If the native kernels are inactive, this also prints the reason.
    """
    facts = kernels.info()
    lines = {
        "sparsewright": sparsewright.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "kernels": facts["active"],
        "reason": facts["why_not"],
        "instruction set": facts["isa"],
        "best supported": facts["best_isa"],
        "used by torch": facts["cpu"],
        "compiler": facts["compiler"],
        "threads": facts["threads"],
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for name, value in lines.items():
        if value != "":
            click.echo(f"{name:17} {value}")
    return 0
