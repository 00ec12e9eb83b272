"""Read masks from weight files and from snapshots."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsewright.errors import CheckpointError
from sparsewright.formats.mask_bits import Bits, pack_bits, why_not_packed
from sparsewright.formats.names import MASK_SUFFIX, natural_order
from sparsewright.formats.read_file import check_regular
from sparsewright.formats.run_files import find_checkpoints
from sparsewright.report.run_metrics import is_level

FACTS = ("algorithm", "paper", "distribution", "structure", "storage")


@dataclass(frozen=True)
class MaskFile:
    """The masks in one file.

    Attributes:
        step: optimizer steps completed.
        bits: weight name -> packed mask.
        shapes: weight name -> shape of the weight.
        facts: weight name -> the weight's choices in the file, under the keys in `FACTS`, and its
            `dims` and `target`.
    """

    step: int
    bits: dict[str, Bits]
    shapes: dict[str, tuple[int, ...]]
    facts: dict[str, dict[str, Any]]


def read_final(path: Path) -> tuple[int, MaskFile, int]:
    """Read the masks of a run's trained weights, or else of its last checkpoint.

    Returns:
        The step, the masks, and the size of the file in bytes.

    Raises:
        CheckpointError: the run has no checkpoint, or its file is damaged or has no masks.
    """
    checkpoints = find_checkpoints(path)
    if not checkpoints:
        raise CheckpointError(path / "checkpoints", "there is no checkpoint in this folder")
    step, last = checkpoints[-1]
    file = path / "model.safetensors"
    if not file.exists():
        file = last / "model.safetensors"
    bits: dict[str, Bits] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with _opened(file) as opened:
        names = set(opened.keys())
        for name in sorted(names, key=natural_order):
            weight = name.removesuffix(MASK_SUFFIX)
            if weight == name or weight not in names:
                continue
            shape = tuple(opened.get_slice(name).get_shape())
            mask = _read(opened, name, file)
            if mask.dtype != np.bool_ or shape != tuple(opened.get_slice(weight).get_shape()):
                expected = f"expected a bool mask with its weight's shape for {name}"
                raise CheckpointError(file, f"{expected}, got {mask.dtype} of shape {shape}")
            if mask.size:
                bits[weight], shapes[weight] = pack_bits(mask), shape
    if not bits:
        raise CheckpointError(file, "the file has no masks")
    return step, MaskFile(step, bits, shapes, {}), file.stat().st_size


def read_snapshot(path: Path, final: MaskFile) -> MaskFile:
    """Read a snapshot of a run's masks at an earlier step.

    Raises:
        CheckpointError: the snapshot is damaged, or its layers differ from those of `final`.
    """
    with _opened(path) as opened:
        try:
            stored = json.loads((opened.metadata() or {})["sparsewright"])
            layers = {str(name): dict(facts) for name, facts in stored["layers"].items()}
            step = stored["step"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = "not a mask snapshot: its metadata are missing or invalid"
            raise CheckpointError(path, problem) from error
        if step != int(path.stem):
            problem = f"the file name does not match step {step!r} in the metadata"
            raise CheckpointError(path, problem)
        shapes = {name: facts.get("shape") for name, facts in layers.items()}
        if shapes != {name: list(shape) for name, shape in final.shapes.items()}:
            raise CheckpointError(path, "its layers differ from those of the last checkpoint")
        if set(opened.keys()) != set(shapes):
            raise CheckpointError(path, "its tensors do not match the layers in its metadata")
        bits = {name: _read(opened, name, path) for name in final.shapes}
    for name, packed in bits.items():
        if problem := why_not_packed(packed, math.prod(final.shapes[name])):
            raise CheckpointError(path, f"{name} is not a packed mask: {problem}")
    said = {name: _facts(facts) for name, facts in layers.items()}
    return MaskFile(step, bits, final.shapes, said)


def _facts(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about one weight; earlier runs have no `dims` and no `target`."""
    target = stored.get("target")
    return {
        **{key: str(stored.get(key, "")) for key in FACTS},
        "dims": (1, 0) if stored.get("dims") == [1, 0] else (0, 1),
        "target": float(target) if is_level(target) else None,
    }


def _opened(path: Path) -> Any:
    import safetensors

    try:
        check_regular(path)
        return safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise CheckpointError(path, f"not a safetensors file, or truncated: {error}") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def _read(opened: Any, name: str, path: Path) -> Any:
    """Read one tensor; a dtype that numpy does not have counts as a damaged file."""
    try:
        return opened.get_tensor(name)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(path, f"{name} has a dtype that masks cannot have") from error
