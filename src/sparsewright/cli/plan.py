"""`sparsewright plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from sparsewright.cli.exit_status import FILE, MISUSE, reports_errors
from sparsewright.cli.printing import printable
from sparsewright.plan import view
from sparsewright.plan.plan_config import plan_file


@click.command()
@click.argument("config", type=FILE)
@click.option("--model", metavar="MODULE:FACTORY", help="Plan for this model, not a recipe's.")
@click.option("--steps", type=click.IntRange(1, 2**53), help="Length of the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "shows_all", is_flag=True, help="List biases and norms too.")
@reports_errors
def plan(config: Path, model: str | None, steps: int | None, as_json: bool, shows_all: bool) -> int:
    """Show what CONFIG will do, without training; list all that is wrong with it.

    CONFIG is what `train` takes. With --model it is any YAML file whose section `sparsity`, or
    whose whole content, is what sparsewright.configure() takes; the factory is called without
    arguments and gives a module, or (module, inputs). It is built on the meta device if it can be.
    The exit status is 2 if anything is wrong.
    """
    made, problems = plan_file(config, model, steps)
    if made is None:
        for problem in problems:
            click.echo(printable(f"error: {problem.place}: {problem.message}"), err=True)
        if as_json:
            click.echo(json.dumps({"problems": [asdict(p) for p in problems]}, indent=2))
        return MISUSE
    if as_json:
        click.echo(json.dumps(view.as_json(made), indent=2))
    else:
        view.print_plan(made, shows_all=shows_all)
    return 0
