"""The command `sparsewright report`."""

from __future__ import annotations

from pathlib import Path

import click

from sparsewright.cli.exit_status import FILE, reports_errors
from sparsewright.cli.printing import printable
from sparsewright.report.command import FORMATS, write_report


@click.command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--format", "kind", type=click.Choice(list(FORMATS)), default="html", help="[default: html]"
)
@click.option(
    "-o", "--output", type=FILE, help="File to write, or - for stdout. [default: RUN/report.FORMAT]"
)
@reports_errors
def report(runs: tuple[Path, ...], kind: str, output: Path | None) -> int:
    """Write a report on saved runs.

    RUN is a run folder. If you pass several, the report compares them. The report is a
    self-contained HTML page, or tables in another format. The page shows losses, speed, the
    configuration, versions, the papers to cite, and the sparsity, churn and mask of each layer.
    """
    file = write_report(list(runs), kind, output)
    if file:
        click.echo(printable(f"{file}"))
    return 0
