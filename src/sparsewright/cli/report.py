"""`sparsewright report`."""

from __future__ import annotations

from pathlib import Path

import click

from sparsewright.cli.exit_status import FILE, reports_errors
from sparsewright.cli.printing import printable
from sparsewright.report.command import FORMATS, write_report


@click.command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="html")
@click.option("-o", "--output", type=FILE, help="File to write, or -  [RUN/report.FORMAT].")
@reports_errors
def report(runs: tuple[Path, ...], kind: str, output: Path | None) -> int:
    """Report on saved runs, as a page that works without a network, or as tables.

    RUN is a run folder; several are compared. The page shows losses, sparsity, churn and masks
    layer by layer, speed, configuration, versions, and the papers to cite.
    """
    file = write_report(list(runs), kind, output)
    if file:
        click.echo(printable(f"{file}"))
    return 0
