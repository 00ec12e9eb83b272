"""The command `sparsewright inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from sparsewright.cli.exit_status import FAILURE, FILE, reports_errors
from sparsewright.cli.printing import print_layers, printable
from sparsewright.runs.layer_counts import count_layers, read_weights


@click.command()
@click.argument("path", type=FILE)
@reports_errors
def inspect(path: Path) -> int:
    """Show how many weights each layer of PATH keeps.

    PATH is a .safetensors file (masked or compressed), a state dict saved with torch.save, or a
    run folder. The exit status is 1 if a mask does not match its weight.
    """
    file, weights = read_weights(path)
    layers = count_layers(weights)
    click.echo(printable(f"{file}"))
    print_layers(layers)
    wrong = [layer for layer in layers if layer.problem]
    for layer in wrong:
        click.echo(printable(f"error: {file}: {layer.name}: {layer.problem}"), err=True)
    return FAILURE if wrong else 0
