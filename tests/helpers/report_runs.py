"""Artificial run folders in which a test knows every number."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml
from numpy.typing import NDArray

Masks = dict[str, NDArray[np.bool_]]


def random_masks(
    shapes: dict[str, tuple[int, ...]], level: float, seed: int, names: str = ""
) -> Masks:
    """Return independent masks that all keep exactly the same share of entries."""
    generator = np.random.default_rng(seed)
    masks = {}
    for name, shape in shapes.items():
        flat = np.zeros(int(np.prod(shape)), dtype=bool)
        flat[: round((1 - level) * flat.size)] = True
        masks[names + name] = generator.permutation(flat).reshape(shape)
    return masks


@dataclass
class WrittenRun:
    """A run folder on disk and the masks that were written to it."""

    path: Path
    masks: dict[int, Masks] = field(default_factory=dict)


def write_run(
    path: Path,
    masks: dict[int, Masks],
    *,
    algorithm: str = "RigL",
    choices: dict[str, dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    finished: bool = True,
    extra: dict[str, Any] | None = None,
) -> WrittenRun:
    """Write a run whose masks change at the given steps; the last step ends the run.

    Args:
        path: folder to create.
        masks: masks by step and name; step 0 has the initial masks, every other step an update.
        algorithm: algorithm that the snapshots name.
        choices: more entries of a layer in the snapshots, by layer name.
        config: content of config.yaml.
        finished: whether the run has a result.
        extra: more keys for each line of a step.
    """
    steps = sorted(masks)
    last = steps[-1]
    (path / "checkpoints" / f"{last:06d}").mkdir(parents=True)
    (path / "masks").mkdir()
    config = config or {"recipe": "charlm", "sparsity": {"algorithm": algorithm.lower()}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    for step in steps[:-1] or steps:
        file = path / "masks" / f"{step:06d}.safetensors"
        write_snapshot(file, step, masks[step], algorithm, choices)
    write_weights(path / "checkpoints" / f"{last:06d}" / "model.safetensors", masks[last])
    if finished:
        write_weights(path / "model.safetensors", masks[last])
        (path / "result.json").write_text("{}")
    lines = _lines(masks, steps, extra or {"tokens_per_second": 1000})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    versions = {"torch": "2.13.0", "python": "3.12.1"}
    (path / "versions.json").write_text(json.dumps([{"from_step": 0, "versions": versions}]))
    return WrittenRun(path, masks)


def write_weights(path: Path, masks: Masks) -> None:
    """Write masks, and weights of one byte each, which a report never reads."""
    tensors: dict[str, Any] = {}
    for name, mask in masks.items():
        tensors[name], tensors[f"{name}_mask"] = mask.astype(np.int8), mask
    tensors["head.bias"] = np.zeros(3, np.float32)
    safetensors.numpy.save_file(tensors, path, {"sparsewright": "{}"})


def write_snapshot(
    path: Path,
    step: int,
    masks: Masks,
    algorithm: str,
    choices: dict[str, dict[str, Any]] | None = None,
) -> None:
    bits = {n: np.packbits(mask.reshape(-1), bitorder="little") for n, mask in masks.items()}
    layers = {
        n: {"shape": list(mask.shape), "algorithm": algorithm, **(choices or {}).get(n, {})}
        for n, mask in masks.items()
    }
    metadata = {"sparsewright": json.dumps({"step": step, "layers": layers})}
    safetensors.numpy.save_file(bits, path, metadata)


def _lines(masks: dict[int, Masks], steps: list[int], extra: dict[str, Any]) -> list[Any]:
    lines: list[dict[str, Any]] = []
    ever = {name: np.zeros(mask.shape[0], bool) for name, mask in masks[steps[0]].items()}
    for step in range(1, steps[-1] + 1):
        before = max((s for s in steps if s < step), default=0)
        for name, mask in masks[step].items() if step in masks else ():
            old, rows = masks[before][name], mask.reshape(mask.shape[0], -1)
            ever[name] |= (mask & ~old).reshape(mask.shape[0], -1).any(axis=1)
            lines.append(
                {
                    "event": "mask_update",
                    "step": step,
                    "name": name,
                    "total": mask.size,
                    "kept": int(mask.sum()),
                    "target": 0.9,
                    "computed": float(1 - mask.mean()),
                    "dropped": int((old & ~mask).sum()),
                    "grown": int((mask & ~old).sum()),
                    "rows": len(rows),
                    "dead_rows": int((~rows.any(axis=1)).sum()),
                    "never_grown_rows": int((~ever[name]).sum()),
                }
            )
        line = {"event": "step", "step": step, "loss": 4 / (1 + step / 10), "level": 0.9}
        lines.append(line | extra)
    lines.append({"event": "validation", "step": steps[-1], "loss": 1.5, "dense_loss": 1.4})
    return lines
