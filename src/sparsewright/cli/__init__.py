"""The `sparsewright` command: `plan` a run, `train` it, `inspect` a checkpoint, `report`, `info`.

Exit status: 0 done (or stopped at --until), 1 failure, 2 usage (options, configuration, input
named in it), 130 interrupted.
"""

from __future__ import annotations

import click

import sparsewright
from sparsewright.cli.info import info
from sparsewright.cli.inspect import inspect
from sparsewright.cli.plan import plan
from sparsewright.cli.report import report
from sparsewright.cli.train import train

__all__ = ["main"]


@click.group()
@click.version_option(sparsewright.__version__, prog_name="sparsewright")
def main() -> None:
    """Sparse training on plain PyTorch.

    Exit status: 0 done, 1 failure, 2 usage (options, configuration, and input they name), 130
    interrupted.
    """


for _command in (train, plan, inspect, report, info):
    main.add_command(_command)
