"""Reading a run folder that may be unfinished, damaged or not ours."""

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
from sparsewright.report.run_metrics import Metrics, read_metrics, read_versions
from sparsewright.report.tensors import read_final, read_snapshot


@dataclass(frozen=True)
class Layer:
    """A weight with a mask.

    Attributes:
        name: its key in the state dict.
        shape: its shape.
        algorithm: class name of what makes its masks; "" where the run does not say.
        paper: where that comes from.
        distribution: what divides the level among layers; "" if it is the same for all.
        structure: what entries stand or fall together; "" if each is by itself.
        storage: how the weight is held.
    """

    name: str
    shape: tuple[int, ...]
    algorithm: str = ""
    paper: str = ""
    distribution: str = ""
    structure: str = ""
    storage: str = ""

    @property
    def total(self) -> int:
        """Entries of the weight."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape of the weight as a matrix: first dimension, all others."""
        rows = self.shape[0] if self.shape else 1
        return rows, (self.total // rows if rows else 0)


@dataclass
class Run:
    """A saved run.

    Attributes:
        name: the folder's name.
        path: the folder.
        config_text: config.yaml as it is.
        config: what it holds.
        versions: entries `from_step`, `versions`.
        finished: whether the run reached its last step.
        metrics: what it logged.
        layers: name -> layer.
        bits: step -> name -> packed mask; the last step is that of the trained weights, or of the
            last checkpoint.
        weights_bytes: size of the file of the trained weights.
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
        """Step of the last masks."""
        return max(self.bits)

    def mask(self, name: str, step: int | None = None) -> Mask:
        """A mask `[rows, columns]` at one of the steps in `bits`; None: the last."""
        bits = self.bits[self.last_step if step is None else step][name]
        return unpack_bits(bits, self.layers[name].matrix)

    def kept(self, name: str, step: int | None = None) -> int:
        """Live connections at one of the steps in `bits`; None: the last."""
        return count_bits(self.bits[self.last_step if step is None else step][name])

    def shared(self, name: str, step: int, other: Run, other_step: int) -> int:
        """Connections live in both of two masks of equal shape."""
        return count_bits(self.bits[step][name] & other.bits[other_step][name])


def read_run(path: Path) -> Run:
    """Read everything that a report shows.

    Raises:
        ConfigError: the folder is missing or not a run folder, or its config.yaml is not YAML.
        CheckpointError: a file in it is damaged, or two files contradict each other.
    """
    if not path.is_dir():
        raise ConfigError(path, "no such folder; allowed: a run folder of `sparsewright train`")
    if not (path / "config.yaml").is_file():
        raise ConfigError(path, "not a run folder (no config.yaml)")
    text, config = _read_config(path / "config.yaml")
    step, final, size = read_final(path)
    snapshots = [read_snapshot(file, final) for file in _snapshot_files(path, step)]
    facts: dict[str, dict[str, str]] = {}
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
    """Read several runs and give each a name of its own.

    Raises:
        ConfigError: as `read_run`, or a folder is given twice.
        CheckpointError: as `read_run`.
    """
    resolved = [os.path.realpath(path) for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ConfigError(paths[index], "given twice")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = _readable(str(run.path))
    return runs


def _readable(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _snapshot_files(path: Path, last: int) -> list[Path]:
    """Snapshots of the masks up to the last checkpoint, oldest first."""
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
        raise ConfigError(path, "not the configuration of a run (not a mapping)")
    return raw.decode("utf-8", "replace"), content
