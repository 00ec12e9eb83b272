"""Find out why the order of the choices differs from the papers on the two recipes.

    python benchmarks/choices_why.py benchmarks/choices-charlm.yaml --write docs/choices.md
    python benchmarks/choices_why.py benchmarks/choices-fashion.yaml --write docs/choices.md

Like `choices.py`, this script appends each finished run to a file, `results/why-<recipe>.csv`, and
does not repeat runs. It trains:

- both recipes with a dense output layer, under ERK, global and LAMP;
- the language model with all layers at 98%, to see which characters keep connections in the output
  layer;
- the language model at 90%, to count the value channels that attention still uses;
- the language model with static masks, unstructured and with fan-in;
- LeNet with SET under each structure, because RigL's growth follows the scale of the inputs.

The tables also use the runs of `choices.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import choices
import click
import harness
import torch
from choices import Case
from choices_tables import METHODS, Found, grid, percent
from methods import configuration, write_between
from torch import Tensor

from sparsewright.recipes.task import Task

HIDDEN = [
    Case("hidden", "gmp", name, level)
    for name in ("erk", "global", "lamp")
    for level in (0.95, 0.98)
]
OUTPUT = [
    Case("distributions", method, name, 0.98)
    for method, names in choices.DISTRIBUTIONS.items()
    for name in names
]
WITH_SET = [
    *(Case("structures", "set", name, 0.75) for name in ("unstructured", "1:4")),
    *(
        Case("structures", "set", name, 0.9)
        for name in ("unstructured", "fan-in", "4x4 blocks", "16x16 blocks", "channels")
    ),
]
ATTENTION = [
    Case("structures", method, name, 0.9)
    for name in ("16x16 blocks", "channels")
    for method in METHODS
]
STATIC = [
    *(Case("structures", "static", "fan-in", level) for level in (0.9, 0.98)),
    *(Case("structures", "static", "unstructured", level) for level in (0.5, 0.8, 0.9, 0.98)),
]
CASES = {"charlm": HIDDEN + OUTPUT + ATTENTION + STATIC, "fashion": HIDDEN + WITH_SET}


def unreached(mask: Tensor, task: Task, steps: int = 200) -> float:
    """Return the fraction of the targets whose outputs have no connection.

    Args:
        mask: mask of the output layer, `[outputs, inputs]`.
        task: the targets are those of its first batches.
        steps: number of batches.
    """
    targets = torch.cat([task.batch(step)[1].flatten() for step in range(steps)])
    return float((~mask.any(1))[targets].double().mean())


def live_values(masks: dict[str, Tensor]) -> int:
    """Return the number of live value channels that a live entry of the next layer reads.

    Args:
        masks: masks of all sparse weights by name. The last third of the outputs of `qkv` are the
            values, which are the inputs of `proj`.
    """
    count = 0
    for name, mask in masks.items():
        if name.endswith("attention.qkv.weight"):
            values = mask.chunk(3)[2].any(1)
            count += int((values & masks[name.replace("qkv", "proj")].any(0)).sum())
    return count


def hidden(found: Found) -> str:
    """Return a table of the distributions with a dense output layer."""
    levels = found.levels("hidden")
    uniform = [found.runs("structures", "gmp", "unstructured", x) for x in levels]
    lines = [("uniform", [found.metric.cell(runs) for runs in uniform])]
    for choice in found.choices("hidden", "gmp", levels[0]):
        runs = [found.runs("hidden", "gmp", choice, x) for x in levels]
        lines.append((choice, list(map(found.metric.cell, runs))))
        pairs = zip(runs, uniform, strict=True)
        lines.append((f"{choice} minus uniform", [found.metric.difference(*p) for p in pairs]))
    return grid("GMP, output layer dense", list(map(percent, levels)), lines)


def outputs(found: Found) -> str:
    """Return a table of the output layer when all layers are sparse."""
    lines = []
    for case in OUTPUT:
        rows = found.cases[case.part, case.method, case.choice, case.level]
        kept = statistics.mean(int(row["kept"].split()[-1]) for row in rows)
        live = statistics.mean(int(row["outputs"]) for row in rows)
        share = statistics.mean(float(row["unreached"]) for row in rows)
        loss = found.metric.cell(found.runs(case.part, case.method, case.choice, case.level))
        name = f"{METHODS[case.method]}, {case.choice}"
        lines.append((name, [loss, f"{kept:.0f}", f"{live:.0f}", f"{share:.0%}"]))
    heads = ["loss", "connections", "characters with a connection", "text without a connection"]
    return grid("output layer at 98%", heads, lines)


def attention(found: Found) -> str:
    """Return a table of the value channels that attention still uses at 90%."""
    lines = []
    for case in ATTENTION:
        rows = found.cases[case.part, case.method, case.choice, case.level]
        counts = [int(row["values"]) for row in rows]
        loss = found.metric.cell(found.runs(case.part, case.method, case.choice, case.level))
        name = f"{METHODS[case.method]}, {case.choice}"
        lines.append((name, [loss, f"{statistics.mean(counts):.1f}", f"{min(counts)}"]))
    heads = ["loss", "live value channels", "fewest of a seed"]
    return grid("attention at 90%", heads, lines)


def fan_in(found: Found) -> str:
    """Return a table of fan-in relative to unstructured masks of the same algorithm."""
    lines = []
    for name, method, choice in (
        ("Static, fan-in", "static", "fan-in"),
        ("RigL, fan-in", "rigl", "fan-in"),
        ("RigL, fan-in, ablation", "rigl", "fan-in, ablation"),
    ):
        cells = []
        for level in (0.9, 0.98):
            runs = found.runs("structures", method, choice, level)
            other = found.runs("structures", method, "unstructured", level)
            cells += [found.metric.cell(runs), found.metric.difference(runs, other)]
        lines.append((name, cells))
    return grid("loss", ["90%", "minus unstructured", "98%", "minus unstructured"], lines)


def from_the_start(found: Found) -> str:
    """Return a table of masks that are sparse from the first step, relative to dense training."""
    dense = found.runs("dense", "", "", 0.0)
    names = {"static": "Static", **METHODS}
    lines = []
    for method, name in names.items():
        runs = [found.runs("structures", method, "unstructured", level) for level in (0.5, 0.8)]
        lines.append((f"{name} minus dense", [found.metric.difference(r, dense) for r in runs]))
    return grid(found.metric.unit, ["50%", "80%"], lines)


def with_set(found: Found) -> Iterator[tuple[str, list[str]]]:
    """Yield a line for each structure with SET."""
    for part, method, choice, level in found.cases:
        if method == "set" and choice != "unstructured":
            runs = found.runs(part, method, choice, level)
            other = found.runs(part, method, "unstructured", level)
            rigl = found.runs(part, "rigl", choice, level)
            of_rigl = found.runs(part, "rigl", "unstructured", level)
            differences = [found.metric.difference(*p) for p in ((runs, other), (rigl, of_rigl))]
            yield f"{choice}, {percent(level)}", differences


def tables(found: Found) -> str:
    """Return all tables of a recipe."""
    texts = [f"Seeds: {len(found.seeds)}.", hidden(found)]
    if found.recipe == "charlm":
        texts += [outputs(found), attention(found), fan_in(found), from_the_start(found)]
    else:
        corner = f"{found.metric.unit}, minus unstructured"
        texts.append(grid(corner, ["SET", "RigL"], list(with_set(found))))
    return "\n\n".join(texts)


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default="0,1,2,3,4", help="Seeds, separated by commas.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the tables into this page.")
def main(file: Path, seeds: str, write: Path | None) -> None:
    """Measure what is missing with the configuration FILE, and print the tables."""
    for seed in map(int, seeds.split(",")):
        config = configuration(None, file, seed)
        name = f"why-{config.recipe}"
        done, task = set(map(choices.key, choices.read(name))), config.make_task()
        for case in CASES[config.recipe]:
            if choices.key({"seed": seed, **asdict(case)}) not in done:
                network, seconds = choices.trained(case, config, task)
                row = choices.row_of(case, network, seconds)
                weights = network.algorithm.sparse_params
                masks = {name: weight.mask for name, weight in weights.items()}
                last = list(masks.values())[-1]
                row["outputs"] = int(last.any(1).sum())
                row["unreached"] = unreached(last, task) if case in OUTPUT else ""
                row["values"] = live_values(masks) if case in ATTENTION else ""
                harness.append(row, name)
                click.echo(f"{name} {list(row.values())}", err=True)
    rows = choices.read(f"choices-{config.recipe}") + choices.read(name)
    text = tables(Found(rows, config.recipe))
    click.echo(text)
    if write:
        write_between(write, f"{config.recipe} why", text)


if __name__ == "__main__":
    main()
