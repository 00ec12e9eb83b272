"""Which method is nearest to dense at equal sparsity? The main job, several seeds.

    python benchmarks/charlm.py --seeds 0,1,2 --csv charlm.csv --write docs/results.md

Trains the recipe `charlm` with its defaults: the dense twin, and Static, SET, RigL and GMP at the
same level, from the same weights, on the same batches. Prints a markdown table (validation loss in
nats per character; spread: largest minus smallest).
"""

from __future__ import annotations

import csv
import statistics
import time
from dataclasses import replace
from pathlib import Path

import click
import harness
import torch
from fashion import section, write_between

from sparsewright.recipes.config import RunConfig
from sparsewright.recipes.training import Training

METHODS = ("dense", "static", "set", "rigl", "gmp")


def train(config: RunConfig) -> dict[str, float]:
    """Train to the end without a run folder; the validation metrics."""
    training = Training(config, config.make_task())
    while training.steps_done < config.loop.steps:
        training.step()
    return training.evaluate()


def measure(config: RunConfig) -> dict[str, float]:
    """Validation loss of every method at one seed."""
    level = config.sparsity["sparsity"]
    found = {}
    for method in METHODS[1:]:
        # The dense twin is trained once, beside the first.
        loop = replace(config.loop, baseline=not found)
        sparse = replace(config, loop=loop, sparsity=section(method, level, config))
        metrics = train(sparse)
        if not found:
            found["dense"] = metrics["dense_loss"]
        found[method] = metrics["loss"]
    return found


def table(losses: dict[str, list[float]]) -> str:
    """The markdown table of losses by method."""
    lines = [
        "| method | validation loss, mean | spread | gap to dense, mean | per seed |",
        "|---|---:|---:|---:|---|",
    ]
    for method, values in losses.items():
        gaps = [value - dense for value, dense in zip(values, losses["dense"], strict=True)]
        each = ", ".join(f"{value:.4f}" for value in values)
        mean, spread = statistics.mean(values), max(values) - min(values)
        gap = "" if method == "dense" else f"{statistics.mean(gaps):+.4f}"
        lines.append(f"| {method} | {mean:.4f} | {spread:.4f} | {gap} | {each} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", default="0,1,2", help="Seeds, separated by commas.")
@click.option("--config", type=click.Path(path_type=Path), help="Instead of the defaults.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the losses here.")
@click.option("--write", type=click.Path(path_type=Path), help="Put the table in this page.")
def main(seeds: str, config: Path | None, csv_path: Path | None, write: Path | None) -> None:
    """Measure and print."""
    losses: dict[str, list[float]] = {method: [] for method in METHODS}
    rows = []
    for seed in map(int, seeds.split(",")):
        started = time.perf_counter()
        settings = RunConfig.from_file(config, "charlm", {"loop": {"seed": seed}})
        torch.set_num_threads(settings.loop.threads)
        for method, loss in measure(settings).items():
            losses[method].append(loss)
            rows.append({"method": method, "seed": seed, "validation_loss": loss})
        seconds = time.perf_counter() - started
        click.echo(f"seed {seed}: {seconds:.0f} s", err=True)
    if csv_path:
        with csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    click.echo(table(losses))
    if write:
        text = f"{len(losses['dense'])} seeds; {harness.machine()}.\n\n{table(losses)}"
        write_between(write, "charlm", text)


if __name__ == "__main__":
    main()
