"""Comparison of the methods on one recipe, shared by `fashion.py` and `charlm.py`."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import harness
import torch

from sparsewright.recipes.task import Task
from sparsewright.runs.config import RunConfig
from sparsewright.runs.training import Network

METHODS = ("static", "set", "rigl", "gmp")
STORAGES = ("masked", "compressed")
Runs = list[tuple[float, float]]
"""One tuple per seed: the metric, and CPU seconds or another figure."""
Results = dict[tuple[str, str, float], Runs]
"""Map (method, storage, level) to runs."""


@dataclass(frozen=True)
class Metric:
    """The metric by which runs are compared.

    Attributes:
        name: its key in the result of `evaluate`.
        scale: factor that converts it to the displayed unit.
        digits: number of decimal places displayed.
        unit: unit of differences.
    """

    name: str
    scale: float
    digits: int
    unit: str

    def cell(self, runs: Runs) -> str:
        """Return the mean and standard deviation over the seeds."""
        return self._show([value for value, _ in runs], 1, "")

    def difference(self, runs: Runs, other: Runs) -> str:
        """Return the mean difference of runs paired by seed, and its standard error."""
        pairs = [a - b for (a, _), (b, _) in zip(runs, other, strict=True)]
        return self._show(pairs, len(pairs), "+")

    def _show(self, values: list[float], count: int, sign: str) -> str:
        spread = statistics.stdev(values) / count**0.5 if len(values) > 1 else 0.0
        mean = statistics.mean(values)
        return f"{mean:{sign}.{self.digits}f} ± {spread:.{self.digits}f}"


def configuration(recipe: str | None, file: Path | None, seed: int) -> RunConfig:
    """Return the recipe's defaults, overridden by a file and a seed; set its number of threads."""
    options = {"loop": {"seed": seed, "baseline": False}}
    config = RunConfig.from_file(file, recipe, options)
    torch.set_num_threads(config.loop.threads or 1)
    return config


def section(method: str, level: float, config: RunConfig) -> dict[str, Any]:
    """Return the `sparsity` section of a method, with the updates of the recipe's RigL."""
    rigl = config.sparsity | {"sparsity": level}
    if method == "static":
        return {"algorithm": "static", "sparsity": level, "seed": rigl["seed"]}
    if method == "gmp":
        freq, stop = rigl["update"]["freq"], rigl["update"]["stop"]
        cubic = {"type": "cubic", "init": 0, "final": level, "begin": 0, "end": stop - 1}
        update = {"freq": freq, "stop": stop + 1}
        return {"algorithm": "gmp", "sparsity": cubic, "update": update, "init_method": "topk"}
    return rigl | {"algorithm": method}


def train(config: RunConfig, task: Task, *, is_sparse: bool = True) -> tuple[Network, float]:
    """Train one network to the end; return it and the CPU seconds that it took."""
    network = Network(config, task, is_sparse=is_sparse)
    started = time.process_time()
    for step in range(config.loop.steps):
        network.step(step)
    return network, time.process_time() - started


def measure(
    config: RunConfig, metric: Metric, levels: list[float], storages: list[str], found: Results
) -> None:
    """Add a dense run, and a run of each method at each level with each storage."""
    task = config.make_task()

    def add(case: tuple[str, str, float], config: RunConfig, *, is_sparse: bool) -> None:
        network, seconds = train(config, task, is_sparse=is_sparse)
        found[case].append((metric.scale * network.evaluate()[metric.name], seconds))

    add(("dense", "dense", 0.0), config, is_sparse=False)
    for level in levels:
        for method in METHODS:
            for storage in storages:
                loop = replace(config.loop, storage=storage)
                sparse = replace(config, loop=loop, sparsity=section(method, level, config))
                add((method, storage, level), sparse, is_sparse=True)


def table(found: Results, metric: Metric, levels: list[float], storage: str) -> str:
    """Return a table of the metric by method and level, with the CPU seconds of a run."""
    lines = [
        f"| {storage} | " + " | ".join(f"{level:.0%}" for level in levels) + " | CPU s per run |",
        "|---|" + "---:|" * (len(levels) + 1),
    ]
    dense = found["dense", "dense", 0.0]
    seconds = statistics.median(s for _, s in dense)
    lines.append(
        f"| dense | {metric.cell(dense)} |" + " |" * (len(levels) - 1) + f" {seconds:.1f} |"
    )
    for method in METHODS:
        runs = [found[method, storage, level] for level in levels]
        low, high = (f(statistics.median(s for _, s in r) for r in runs) for f in (min, max))
        cells = " | ".join(map(metric.cell, runs))
        lines.append(f"| {method} | {cells} | {low:.1f} to {high:.1f} |")
    return "\n".join(lines)


def order(found: Results, metric: Metric, levels: list[float], storage: str) -> str:
    """Return a table that compares SET with Static, and RigL with SET, at each level."""
    lines = [
        f"| {metric.unit}, paired by seed | " + " | ".join(f"{x:.0%}" for x in levels) + " |",
        "|---|" + "---:|" * len(levels),
    ]
    for method, other in (("set", "static"), ("rigl", "set")):
        pairs = [(found[method, storage, x], found[other, storage, x]) for x in levels]
        cells = " | ".join(metric.difference(*pair) for pair in pairs)
        lines.append(f"| {method} minus {other} | {cells} |")
    return "\n".join(lines)


def write_between(path: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- name -->` and `<!-- end name -->` in a file."""
    content = path.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, _, rest = content.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise click.ClickException(f"{path} needs the lines {begin} and {end}, for the tables")
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")


def command(recipe: str, metric: Metric) -> click.Command:
    """Return the command that compares the methods on a recipe."""

    @click.command()
    @click.option("--seeds", default="0,1,2,3,4", help="Seeds, separated by commas.")
    @click.option(
        "--levels", default="0.8,0.9,0.95,0.98", help="Sparsity levels, 0..1, separated by commas."
    )
    @click.option("--storages", default="masked,compressed", help="Storages, separated by commas.")
    @click.option(
        "--config", type=click.Path(path_type=Path), help="YAML that overrides the defaults."
    )
    @click.option(
        "--write", type=click.Path(path_type=Path), help="Write the tables into this page."
    )
    def main(
        seeds: str, levels: str, storages: str, config: Path | None, write: Path | None
    ) -> None:
        """Measure and print the tables; update the page after each seed."""
        numbers, kinds = [float(level) for level in levels.split(",")], storages.split(",")
        found: Results = defaultdict(list)
        for done, seed in enumerate(map(int, seeds.split(",")), 1):
            settings = configuration(recipe, config, seed)
            measure(settings, metric, numbers, kinds, found)
            heading = f"Seeds: {done}; steps: {settings.loop.steps}; {harness.machine()}."
            texts = {
                kind: [
                    heading,
                    table(found, metric, numbers, kind),
                    order(found, metric, numbers, kind),
                ]
                for kind in kinds
            }
            for kind, text in texts.items():
                click.echo("\n\n".join(text) + "\n")
                if write:
                    write_between(write, f"{recipe} {kind}", "\n\n".join(text))
            _write_rows(found, metric, recipe)

    return main


def _write_rows(found: Results, metric: Metric, recipe: str) -> None:
    rows = [
        {"method": m, "storage": s, "level": level, "run": i, metric.name: value, "cpu_s": seconds}
        for (m, s, level), runs in found.items()
        for i, (value, seconds) in enumerate(runs)
    ]
    harness.write(rows, recipe)
