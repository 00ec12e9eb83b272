"""Compare distributions and structures at equal levels on both recipes.

    python benchmarks/choices.py benchmarks/choices-charlm.yaml --write docs/choices.md
    python benchmarks/choices.py benchmarks/choices-fashion.yaml --write docs/choices.md

Trains the recipe of a configuration file from several seeds: dense; with GMP and RigL under each
distribution; and with GMP and RigL under each structure. Distributions divide the level among all
layers including the output layer. For the structures, the output layer stays dense, because 10
outputs do not divide into blocks. Each finished run is appended to
`results/choices-<recipe>.csv`. Runs that this file has are not repeated, so an interrupted
measurement continues where it stopped. `choices_tables.py` makes the tables.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import choices_tables
import click
import harness
from methods import configuration, section, train, write_between

from sparsewright.recipes.task import Task
from sparsewright.runs.config import RunConfig
from sparsewright.runs.training import Network

LEVELS = (0.8, 0.9, 0.95, 0.98)
DISTRIBUTIONS = {
    "gmp": ("uniform", "uniform_plus", "erk", "global", "lamp"),
    "rigl": ("uniform", "erk"),
}
STRUCTURES: dict[str, tuple[Any, tuple[float, ...]]] = {
    "unstructured": (None, (0.5, 0.75, *LEVELS)),
    "2:4": ("2:4", (0.5,)),
    "4:8": ("4:8", (0.5,)),
    "1:4": ("1:4", (0.75,)),
    "fan-in": ("fan_in", LEVELS),
    "fan-in, ablation": ({"type": "fan_in"}, LEVELS),
    "4x4 blocks": ({"type": "block", "shape": [4, 4]}, LEVELS),
    "16x16 blocks": ({"type": "block", "shape": [16, 16]}, LEVELS),
    "channels": ({"type": "channel", "axis": 0}, LEVELS),
}
"""Map each structure to its configuration and the levels to measure."""
LAYERS = {
    "charlm": (["*.qkv.weight", "*.proj.weight", "*.mlp.*.weight"], "lm_head.weight"),
    "fashion": (["fc1.weight", "fc2.weight"], "fc3.weight"),
}
"""Map each recipe to globs of its layers, and its output layer."""
SALIENT = 0.3
"""SRigL's default: a neuron is ablated below this fraction of its average live inputs."""


@dataclass(frozen=True)
class Case:
    """The choices of one run.

    Attributes:
        part: `"dense"`, `"distributions"`, `"structures"`, or `"hidden"` for distributions with a
            dense output layer.
        method: `"gmp"`, `"rigl"` or `"set"`.
        choice: the distribution or the structure.
        level: sparsity level, 0..1.
    """

    part: str
    method: str
    choice: str
    level: float

    def section(self, config: RunConfig) -> dict[str, Any]:
        """Return the `sparsity` section of the configuration."""
        layers, output = LAYERS[config.recipe]
        options = section(self.method, self.level, config)
        if self.part == "distributions":
            layers = [*layers, output]
        if self.part != "structures":
            return options | {"distribution": self.choice, "param_filter": layers}
        structure, _ = STRUCTURES[self.choice]
        if self.choice == "fan-in, ablation":
            structure = structure | {"ablate": round(SALIENT * (1 - self.level), 6)}
        return options | {"structure": structure, "param_filter": layers}


DENSE = Case("dense", "", "", 0.0)


def cases() -> Iterator[Case]:
    """Yield every case of one seed."""
    yield DENSE
    for method, distributions in DISTRIBUTIONS.items():
        for choice in distributions:
            for level in LEVELS:
                yield Case("distributions", method, choice, level)
    for choice, (_, levels) in STRUCTURES.items():
        for method in DISTRIBUTIONS:
            for level in levels:
                yield Case("structures", method, choice, level)


def trained(case: Case, config: RunConfig, task: Task) -> tuple[Network, float]:
    """Train one network; return it and the CPU seconds that it took."""
    if case != DENSE:
        config = replace(config, sparsity=case.section(config))
    return train(config, task, is_sparse=case != DENSE)


def row_of(case: Case, network: Network, seconds: float) -> dict[str, Any]:
    """Return the row of a run: its metrics, and the live and all entries of each layer."""
    weights = network.algorithm.sparse_params.values() if network.algorithm else []
    found = network.evaluate()
    return {
        "seed": network.config.loop.seed,
        **asdict(case),
        "loss": found["loss"],
        "accuracy": found.get("accuracy", ""),
        "kept": " ".join(str(weight.kept) for weight in weights),
        "entries": " ".join(str(weight.mask.numel()) for weight in weights),
        "cpu_s": round(seconds, 2),
    }


def read(name: str) -> list[dict[str, str]]:
    """Return the finished runs of `results/<name>.csv`."""
    path = harness.RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the seed and the case of a row as strings."""
    return tuple(str(row[name]) for name in ("seed", "part", "method", "choice", "level"))


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default="0,1,2,3,4", help="Seeds, separated by commas.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the tables into this page.")
def main(file: Path, seeds: str, write: Path | None) -> None:
    """Measure what is missing with the configuration FILE, and print the tables."""
    for seed in map(int, seeds.split(",")):
        config = configuration(None, file, seed)
        name = f"choices-{config.recipe}"
        done, task = set(map(key, read(name))), config.make_task()
        for case in cases():
            if key({"seed": seed, **asdict(case)}) not in done:
                row = row_of(case, *trained(case, config, task))
                harness.append(row, name)
                click.echo(f"{name} {list(row.values())}", err=True)
    heading = f"Steps: {config.loop.steps}; {harness.machine()}."
    for part, text in choices_tables.tables(read(name), config.recipe).items():
        click.echo(f"{text}\n")
        if write:
            write_between(write, f"{config.recipe} {part}", f"{heading}\n\n{text}")


if __name__ == "__main__":
    main()
