"""Read run folders, which may be unfinished, damaged or from another program."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsewright.errors import ConfigError
from sparsewright.formats.mask_bits import Bits, Mask, count_bits, unpack_bits
from sparsewright.formats.read_file import MOST_TEXT, read_regular
from sparsewright.formats.run_files import find_snapshots
from sparsewright.formats.yaml_text import parse_yaml
from sparsewright.report.patterns import Pattern, pattern_of
from sparsewright.report.run_metrics import Metrics, is_level, read_metrics, read_versions
from sparsewright.report.tensors import read_final, read_snapshot


@dataclass(frozen=True)
class Layer:
    """A weight with a mask. Strings are "" if the run does not record them.

    Attributes:
        name: the weight's key in the state dict.
        shape: the weight's shape.
        algorithm: class name of the algorithm.
        paper: source of the algorithm.
        distribution: distribution of the level over layers; "" if all layers have the same level.
        structure: structure of the mask; "" if it is unstructured.
        storage: name of the weight's storage.
        dims: dimensions of the weight that hold its outputs and its inputs.
        target: level that the first mask should have; None if the run does not record it.
    """

    name: str
    shape: tuple[int, ...]
    algorithm: str = ""
    paper: str = ""
    distribution: str = ""
    structure: str = ""
    storage: str = ""
    dims: tuple[int, int] = (0, 1)
    target: float | None = None

    @property
    def total(self) -> int:
        """Return the number of elements of the weight."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Return the shape of the weight as a matrix: its first dimension by all others."""
        rows = self.shape[0] if self.shape else 1
        return rows, (self.total // rows if rows else 0)

    @property
    def pattern(self) -> Pattern | None:
        """Return the pattern of the mask; None if it is unstructured."""
        return pattern_of(self.structure, self.shape, self.dims)


@dataclass
class Run:
    """A saved run.

    Attributes:
        name: the folder's name.
        path: the folder.
        config_text: text of config.yaml.
        config: content of config.yaml.
        versions: entries with `from_step` and `versions`.
        finished: True if the run reached its last step.
        metrics: metrics that the run logged.
        layers: name -> layer.
        bits: step -> name -> packed mask; the last step has the masks of the trained weights, or
            else of the last checkpoint.
        weights_bytes: size of the file with these weights.
    """

    name: str
    path: Path
    config_text: str
    config: dict[str, Any]
    versions: list[dict[str, Any]]
    finished: bool
    metrics: Metrics
    layers: dict[str, Layer]
    bits: dict[int, dict[str, Bits]] = field(repr=False)
    weights_bytes: int = 0

    @property
    def last_step(self) -> int:
        """Return the step of the last masks."""
        return max(self.bits)

    def mask(self, name: str, step: int | None = None) -> Mask:
        """Return a mask `[rows, columns]` at a step in `bits`; the default is the last step."""
        bits = self.bits[self.last_step if step is None else step][name]
        return unpack_bits(bits, self.layers[name].matrix)

    def kept(self, name: str, step: int | None = None) -> int:
        """Return the live connections at a step in `bits`; the default is the last step."""
        return count_bits(self.bits[self.last_step if step is None else step][name])

    def target(self, name: str) -> float | None:
        """Return the level that a layer's last mask should have, or None if it is not recorded."""
        updates = self.metrics.updates.get(name, [])
        done = [update for update in updates if update["step"] <= self.last_step]
        found = done[-1].get("target") if done else self.layers[name].target
        return found if is_level(found) else None

    @property
    def total_target(self) -> float | None:
        """Return the level that all layers' last masks together should have, if it is recorded."""
        pruned, total = 0.0, 0
        for name, layer in self.layers.items():
            target = self.target(name)
            if target is None:
                return None
            pruned, total = pruned + target * layer.total, total + layer.total
        return pruned / total

    def shared(self, name: str, step: int, other: Run, other_step: int) -> int:
        """Return the number of connections that are live in both of two masks of equal shape."""
        return count_bits(self.bits[step][name] & other.bits[other_step][name])


def read_run(path: Path) -> Run:
    """Read the parts of a run folder that reports show.

    Raises:
        ConfigError: the folder is missing or is not a run folder, or its config.yaml is not valid.
        CheckpointError: a file in the folder is damaged, or two files contradict each other.
    """
    if not path.is_dir():
        raise ConfigError(path, "no such folder; give a run folder made by `sparsewright train`")
    if not (path / "config.yaml").is_file():
        raise ConfigError(path, "not a run folder (no config.yaml)")
    text, config = _read_config(path / "config.yaml")
    step, final, size = read_final(path)
    snapshots = [read_snapshot(file, final) for file in _snapshot_files(path, step)]
    facts: dict[str, dict[str, Any]] = {}
    for snapshot in snapshots:
        facts |= snapshot.facts
    layers = {n: Layer(n, shape, **facts.get(n, {})) for n, shape in final.shapes.items()}
    return Run(
        name=_readable(Path(os.path.realpath(path)).name),
        path=path,
        config_text=text,
        config=config,
        versions=read_versions(path / "versions.json"),
        finished=(path / "result.json").exists(),
        metrics=read_metrics(path / "metrics.jsonl", {n: x.total for n, x in layers.items()}),
        layers=layers,
        bits={**{s.step: s.bits for s in snapshots}, step: final.bits},
        weights_bytes=size,
    )


def read_runs(paths: list[Path]) -> list[Run]:
    """Read several runs, and give runs with equal names different names.

    Raises:
        ConfigError: a folder is given twice, or `read_run` raised this error.
        CheckpointError: `read_run` raised this error.
    """
    resolved = [os.path.realpath(path) for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ConfigError(paths[index], "this run is given twice")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = _readable(str(run.path))
    return runs


def _readable(name: str) -> str:
    """Return a file name as text, in which bytes that are not UTF-8 read like `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _snapshot_files(path: Path, last: int) -> list[Path]:
    """Return the files of mask snapshots up to the last checkpoint, oldest first."""
    return [file for step, file in find_snapshots(path) if step <= last]


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        raw = read_regular(path, MOST_TEXT)
        content = parse_yaml(raw)
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(path, str(error)) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(path, f"expected a mapping of sections to values, got a {kind}")
    return raw.decode("utf-8", "replace"), content
