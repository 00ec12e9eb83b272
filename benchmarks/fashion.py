"""Which method is nearest to dense, at which level? LeNet-300-100 on the full Fashion-MNIST.

    python benchmarks/fashion.py --data /usr/share/datasets/fashion-mnist --write docs/results.md

Trains the recipe `fashion` with its defaults from several seeds: dense, and Static, SET, RigL and
GMP at each level, masked and compressed. Prints the mean test accuracy, its standard deviation over
the seeds, and the CPU time of a run; and how SET compares with Static, and RigL with SET.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import harness
import torch

from sparsewright.recipes.config import RunConfig
from sparsewright.recipes.task import rigl_section
from sparsewright.recipes.training import Network

METHODS = ("static", "set", "rigl", "gmp")
STORAGES = ("masked", "compressed")
Runs = list[tuple[float, float]]
"""Accuracy (0..1), and CPU seconds or another figure, of each seed."""
Results = dict[tuple[str, str, float], Runs]
"""(method, storage, level) -> runs."""


def configuration(seed: int, data: Path | None, steps: int | None) -> RunConfig:
    """The recipe's defaults at a seed; with the threads it asks for."""
    options: dict[str, dict[str, Any]] = {"loop": {"seed": seed, "baseline": False}}
    options["loop"] |= {"steps": steps} if steps else {}
    options |= {"data": {"dir": str(data)}} if data else {}
    config = RunConfig.from_file(None, "fashion", options)
    torch.set_num_threads(config.loop.threads or 1)
    return config


def section(method: str, level: float, config: RunConfig) -> dict[str, Any]:
    """The `sparsity` section of a method: updates where RigL's default has them."""
    rigl = rigl_section(config.loop, level, updates=30)
    seed, update = rigl["seed"], rigl["update"]
    if method == "static":
        return {"algorithm": "static", "sparsity": level, "seed": seed}
    if method == "gmp":
        cubic = {"type": "cubic", "init": 0, "final": level, "begin": 0, "end": update["stop"] - 1}
        update = {"freq": update["freq"], "stop": update["stop"] + 1}
        return {"algorithm": "gmp", "sparsity": cubic, "update": update, "init_method": "topk"}
    return rigl | {"algorithm": method}


def run(config: RunConfig, task: Any, *, is_sparse: bool) -> tuple[float, float]:
    """Train one network to the end: its test accuracy, and the CPU seconds of training."""
    network = Network(config, task, is_sparse=is_sparse)
    started = time.process_time()
    for step in range(config.loop.steps):
        network.step(step)
    seconds = time.process_time() - started
    return network.evaluate()["accuracy"], seconds


def measure(config: RunConfig, levels: list[float], storages: list[str]) -> Results:
    """Every method at every level, once, at the seed of the configuration."""
    task = config.make_task()
    found: Results = {("dense", "dense", 0.0): [run(config, task, is_sparse=False)]}
    for level in levels:
        for method in METHODS:
            for storage in storages:
                loop = replace(config.loop, storage=storage)
                sparse = replace(config, loop=loop, sparsity=section(method, level, config))
                found[method, storage, level] = [run(sparse, task, is_sparse=True)]
    return found


def table(found: Results, levels: list[float], storage: str) -> str:
    """Accuracy in percent, mean and standard deviation over the seeds; CPU seconds of a run."""
    lines = [
        f"| {storage} | " + " | ".join(f"{level:.0%}" for level in levels) + " | CPU s a run |",
        "|---|" + "---:|" * (len(levels) + 1),
    ]
    dense = found["dense", "dense", 0.0]
    seconds = statistics.median(s for _, s in dense)
    lines.append(f"| dense | {cell(dense)} |" + " |" * (len(levels) - 1) + f" {seconds:.1f} |")
    for method in METHODS:
        runs = [found[method, storage, level] for level in levels]
        low, high = (f(statistics.median(s for _, s in r) for r in runs) for f in (min, max))
        cells = " | ".join(map(cell, runs))
        lines.append(f"| {method} | {cells} | {low:.1f} to {high:.1f} |")
    return "\n".join(lines)


def cell(runs: Runs) -> str:
    """Mean and standard deviation of accuracies, in percent."""
    values = [100 * accuracy for accuracy, _ in runs]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def gain(runs: Runs, over: Runs) -> str:
    """Mean difference in accuracy between paired runs, in points, with its standard error."""
    pairs = [100 * (a - b) for (a, _), (b, _) in zip(runs, over, strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
    return f"{statistics.mean(pairs):+.2f} ± {error:.2f}"


def order(found: Results, levels: list[float], storage: str) -> str:
    """How SET compares with Static, and RigL with SET, at every level of 90% and more."""
    lines = []
    for method, over in (("SET", "Static"), ("RigL", "SET")):
        gains = [
            f"{gain(found[method.lower(), storage, x], found[over.lower(), storage, x])} at {x:.0%}"
            for x in levels
            if x >= 0.9
        ]
        lines.append(f"{method} over {over}, paired by seed: {', '.join(gains)}.")
    return " ".join([*lines, "In points of accuracy, with standard errors."])


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end name -->` in a file."""
    content = path.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, _, rest = content.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise click.ClickException(f"{path} has no {begin} ... {end}")
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")


@click.command()
@click.option("--seeds", default="0,1,2,3,4", help="Seeds, separated by commas.")
@click.option("--levels", default="0.8,0.9,0.95,0.98", help="Levels, separated by commas.")
@click.option("--storages", default="masked,compressed", help="masked, compressed or both.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the idx files.")
@click.option("--steps", type=int, help="Optimizer steps of a run, instead of the recipe's.")
@click.option("--write", type=click.Path(path_type=Path), help="Put the tables in this page.")
def main(
    seeds: str,
    levels: str,
    storages: str,
    data: Path | None,
    steps: int | None,
    write: Path | None,
) -> None:
    """Measure and print."""
    numbers, kinds = [float(level) for level in levels.split(",")], storages.split(",")
    found: Results = defaultdict(list)
    for seed in map(int, seeds.split(",")):
        config = configuration(seed, data, steps)
        started = time.perf_counter()
        for case, runs in measure(config, numbers, kinds).items():
            found[case] += runs
        click.echo(f"seed {seed}: {time.perf_counter() - started:.0f} s", err=True)
    rows = [
        {"method": m, "storage": s, "level": level, "run": i, "accuracy": a, "cpu_s": seconds}
        for (m, s, level), runs in found.items()
        for i, (a, seconds) in enumerate(runs)
    ]
    harness.write(rows, "fashion")
    heading = f"{len(seeds.split(','))} seeds, {config.loop.steps} steps; {harness.machine()}."
    for kind in kinds:
        text = "\n\n".join([heading, table(found, numbers, kind), order(found, numbers, kind)])
        click.echo(text)
        if write:
            write_between(write, f"fashion {kind}", text)


if __name__ == "__main__":
    main()
