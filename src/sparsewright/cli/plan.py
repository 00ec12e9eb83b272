"""The command `sparsewright plan`."""

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
@click.option("--model", metavar="MODULE:FACTORY", help="Plan for this model, not the recipe's.")
@click.option("--steps", type=click.IntRange(1, 2**53), help="Number of training steps.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "shows_all", is_flag=True, help="Also list biases and norms.")
@reports_errors
def plan(config: Path, model: str | None, steps: int | None, as_json: bool, shows_all: bool) -> int:
    """Show what CONFIG does, without training.

    If CONFIG has mistakes, this lists all of them instead.

    CONFIG is a configuration for `train`. With --model, it can be any YAML file whose section
    `sparsity`, or whose whole content, is a config for sparsewright.configure(). The factory
    accepts no arguments and returns a module, or (module, inputs). The model is built on the meta
    device if possible. The exit status is 2 if there are mistakes.
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
