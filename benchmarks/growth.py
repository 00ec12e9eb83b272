"""Show that RigL's growth follows the scale of the inputs, which hurts it with AdamW.

    python benchmarks/growth.py --write docs/results.md

On Fashion-MNIST, RigL with AdamW is less accurate than SET. A connection's gradient is the mean
over the batch of (gradient of its output) * (its input), so it is large where the input is large,
and RigL grows there. SGD's steps have the same scale, but Adam divides the scale out. This script
trains LeNet-300-100 with both optimizers by Static, SET, RigL, and `ScaledRigL`, which divides the
gradient by its root mean square over an input's connections. It prints the mean test accuracy, its
standard deviation over the seeds, and the share of the first layer's connections on the brighter
quarter of the pixels (25% means no preference).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import click
import harness
import torch
from fashion import ACCURACY
from methods import Runs, configuration, section, train, write_between
from torch import Tensor

import sparsewright as sparse
from sparsewright import RigL
from sparsewright.recipes.task import Task
from sparsewright.runs.config import RunConfig

OPTIMIZERS = {"AdamW": {}, "SGD": {"name": "sgd", "lr": 0.1}}
Results = dict[tuple[str, str], Runs]
"""Map (method, optimizer) to runs: accuracy, and share of connections on bright pixels."""


class ScaledRigL(RigL):
    """Train with RigL, growing where |g[i, j]| / rms(g[:, j]) is largest.

    Dividing by the root mean square cancels the scale of input j.
    """

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        drop = self.scheduled("drop_fraction")
        stays, counts = sparse.utils.make_mask_drop_minimum(p.abs(), mask, drop)
        gradient = self.dense_gradient(p)
        rms = gradient.square().mean(dim=0, keepdim=True).sqrt()
        score = gradient.abs() / rms.clamp(min=torch.finfo(rms.dtype).tiny)
        return sparse.utils.make_mask_grow_maximum(score, stays, sparsity, counts)


METHODS = {"Static": "static", "SET": "set", "RigL": "rigl", "ScaledRigL": ScaledRigL}


def run(config: RunConfig, task: Task) -> tuple[float, float]:
    """Train to the end; return test accuracy in percent and the share on bright pixels."""
    network, _ = train(config, task)
    assert network.algorithm is not None
    mask = network.algorithm.sparse_params["fc1.weight"].mask
    brightness = task.batch(0)[0].mean(dim=0)
    bright = brightness.argsort(descending=True)[: len(brightness) // 4]
    share = int(mask[:, bright].sum()) / int(mask.sum())
    return ACCURACY.scale * network.evaluate()[ACCURACY.name], share


def measure(config: RunConfig, level: float, found: Results) -> None:
    """Add one run of every method with each optimizer, at the configuration's seed."""
    task = config.make_task()
    for optimizer, settings in OPTIMIZERS.items():
        for method, algorithm in METHODS.items():
            kind = algorithm if isinstance(algorithm, str) else "rigl"
            options = section(kind, level, config) | {"algorithm": algorithm}
            sparse_config = replace(
                config, optimizer=replace(config.optimizer, **settings), sparsity=options
            )
            found[method, optimizer].append(run(sparse_config, task))


def table(found: Results) -> str:
    """Return a table of accuracy and share on bright pixels, in percent."""
    lines = [
        "| | " + " | ".join(f"{name} | bright pixels" for name in OPTIMIZERS) + " |",
        "|---|" + "---:|---:|" * len(OPTIMIZERS),
    ]
    for method in METHODS:
        cells = []
        for optimizer in OPTIMIZERS:
            runs = found[method, optimizer]
            cells += [ACCURACY.cell(runs), f"{statistics.mean(share for _, share in runs):.0%}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(found: Results) -> str:
    """Return a table of how RigL and ScaledRigL differ from SET."""
    lines = [
        f"| {ACCURACY.unit}, paired by seed | " + " | ".join(OPTIMIZERS) + " |",
        "|---|" + "---:|" * len(OPTIMIZERS),
    ]
    for method in ("RigL", "ScaledRigL"):
        pairs = [(found[method, name], found["SET", name]) for name in OPTIMIZERS]
        cells = " | ".join(ACCURACY.difference(*pair) for pair in pairs)
        lines.append(f"| {method} minus SET | {cells} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", default="0,1,2,3,4", help="Seeds, separated by commas.")
@click.option("--level", default=0.9, help="Sparsity level, 0..1.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML that overrides the defaults.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the table into this page.")
def main(seeds: str, level: float, config: Path | None, write: Path | None) -> None:
    """Measure and print the tables."""
    found: Results = defaultdict(list)
    for seed in map(int, seeds.split(",")):
        settings = configuration("fashion", config, seed)
        measure(settings, level, found)
        click.echo(f"seed {seed}", err=True)
    rows = [
        {"method": method, "optimizer": optimizer, "run": i, "accuracy": a, "bright": bright}
        for (method, optimizer), runs in found.items()
        for i, (a, bright) in enumerate(runs)
    ]
    harness.write(rows, "growth")
    count = f"Seeds: {len(seeds.split(','))}; steps: {settings.loop.steps}"
    heading = f"{level:.0%} sparse. {count}; {harness.machine()}."
    text = "\n\n".join([heading, table(found), differences(found)])
    click.echo(text)
    if write:
        write_between(write, "growth", text)


if __name__ == "__main__":
    main()
