"""The `sparsewright` command with its subcommands `train`, `plan`, `inspect`, `report` and `info`.

Exit status: 0 success (also after a stop at --until), 1 failure, 2 usage error (options,
configuration, or a file that they name), 130 interrupted.
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
    """Train sparse networks with plain PyTorch.

    Exit status: 0 success, 1 failure, 2 usage error (options, configuration, or a file that they
    name), 130 interrupted.
    """


for _command in (train, plan, inspect, report, info):
    main.add_command(_command)
