"""Which method is nearest to dense, at which level? LeNet-300-100 on the full Fashion-MNIST.

    python benchmarks/fashion.py --data /usr/share/datasets/fashion-mnist --write docs/results.md

Trains the recipe `fashion` with its defaults from several seeds: dense, and Static, SET, RigL and
GMP at each level, masked and compressed. Prints the mean test accuracy, its standard deviation over
the seeds, and the CPU time of a run; exits with 1 unless Static < SET <= RigL in the mean over the
levels of 90% and more (SET and RigL: within one standard error, or RigL ahead).
"""

from __future__ import annotations

import statistics
import sys
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
Results = dict[tuple[str, str, float], list[tuple[float, float]]]
"""(method, storage, level) -> (accuracy, CPU seconds) of each seed."""


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
    lines.append(f"| dense | {_cell(dense)} |" + " |" * (len(levels) - 1) + f" {seconds:.1f} |")
    for method in METHODS:
        runs = [found[method, storage, level] for level in levels]
        low, high = (f(statistics.median(s for _, s in r) for r in runs) for f in (min, max))
        cells = " | ".join(map(_cell, runs))
        lines.append(f"| {method} | {cells} | {low:.1f} to {high:.1f} |")
    return "\n".join(lines)


def _cell(runs: list[tuple[float, float]]) -> str:
    values = [100 * accuracy for accuracy, _ in runs]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def order(found: Results, levels: list[float], storage: str) -> tuple[bool, str]:
    """Whether Static < SET <= RigL, from accuracies paired by seed and level of 90% and more."""
    high = [level for level in levels if level >= 0.9]

    def gain(method: str, over: str) -> tuple[float, float]:
        pairs = [
            100 * (a[0] - b[0])
            for level in high
            for a, b in zip(found[method, storage, level], found[over, storage, level], strict=True)
        ]
        spread = statistics.stdev(pairs) if len(pairs) > 1 else 0.0
        return statistics.mean(pairs), spread / len(pairs) ** 0.5

    (set_gain, set_error), (rigl_gain, rigl_error) = gain("set", "static"), gain("rigl", "set")
    verdict = (
        f"At 90% and more, paired by seed, in points: SET over Static {set_gain:+.2f} "
        f"± {set_error:.2f}, RigL over SET {rigl_gain:+.2f} ± {rigl_error:.2f} (standard errors)."
    )
    return set_gain > 0 and rigl_gain >= -rigl_error, verdict


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
@click.option("--sgd", type=float, metavar="LR", help="SGD with momentum instead of AdamW.")
@click.option("--write", type=click.Path(path_type=Path), help="Put the tables in this page.")
def main(
    seeds: str,
    levels: str,
    storages: str,
    data: Path | None,
    steps: int | None,
    sgd: float | None,
    write: Path | None,
) -> None:
    """Measure, print, and judge."""
    numbers, kinds = [float(level) for level in levels.split(",")], storages.split(",")
    found: Results = defaultdict(list)
    for seed in map(int, seeds.split(",")):
        options: dict[str, dict[str, Any]] = {"loop": {"seed": seed, "baseline": False}}
        options["loop"] |= {"steps": steps} if steps else {}
        options |= {"optimizer": {"name": "sgd", "lr": sgd}} if sgd else {}
        options |= {"data": {"dir": str(data)}} if data else {}
        config = RunConfig.from_file(None, "fashion", options)
        torch.set_num_threads(config.loop.threads or 1)
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
    judged = []
    for kind in kinds:
        right, verdict = order(found, numbers, kind)
        text = "\n\n".join([heading, table(found, numbers, kind), verdict])
        click.echo(text)
        judged.append(right)
        if write:
            write_between(write, f"fashion {kind}", text)
    sys.exit(int(not all(judged)))


if __name__ == "__main__":
    main()
