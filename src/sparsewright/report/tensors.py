"""Masks from safetensors files: those beside the weights, and the snapshots."""

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

FACTS = ("algorithm", "paper", "distribution", "structure", "storage")


@dataclass(frozen=True)
class MaskFile:
    """The masks in one file.

    Attributes:
        step: optimizer steps completed.
        bits: name of the weight -> packed mask.
        shapes: name -> shape of the weight.
        facts: name -> what the file says of its choices, by the names in `FACTS`.
    """

    step: int
    bits: dict[str, Bits]
    shapes: dict[str, tuple[int, ...]]
    facts: dict[str, dict[str, str]]


def read_final(path: Path) -> tuple[int, MaskFile, int]:
    """The masks of a run's trained weights, else of its last checkpoint.

    Returns:
        Step, masks, size of the file in bytes.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one without masks.
    """
    checkpoints = find_checkpoints(path)
    if not checkpoints:
        raise CheckpointError(path / "checkpoints", "no checkpoint in it")
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
                problem = f"{name} is {mask.dtype} of shape {shape}; allowed: bool, as its weight"
                raise CheckpointError(file, problem)
            if mask.size:
                bits[weight], shapes[weight] = pack_bits(mask), shape
    if not bits:
        raise CheckpointError(file, "no masks in it")
    return step, MaskFile(step, bits, shapes, {}), file.stat().st_size


def read_snapshot(path: Path, final: MaskFile) -> MaskFile:
    """A snapshot of the same masks at an earlier step.

    Raises:
        CheckpointError: it is damaged, or its masks are not those of `final`.
    """
    with _opened(path) as opened:
        try:
            stored = json.loads((opened.metadata() or {})["sparsewright"])
            layers = {str(name): dict(facts) for name, facts in stored["layers"].items()}
            step = stored["step"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(path, "not a snapshot of masks (its metadata)") from error
        if step != int(path.stem):
            raise CheckpointError(path, f"says that it is of step {step!r}")
        shapes = {name: facts.get("shape") for name, facts in layers.items()}
        if shapes != {name: list(shape) for name, shape in final.shapes.items()}:
            raise CheckpointError(path, "has other layers than the last checkpoint")
        if set(opened.keys()) != set(shapes):
            raise CheckpointError(path, "its tensors are not the layers that its metadata name")
        bits = {name: _read(opened, name, path) for name in final.shapes}
    for name, packed in bits.items():
        if problem := why_not_packed(packed, math.prod(final.shapes[name])):
            raise CheckpointError(path, f"{name} is not a packed mask: {problem}")
    said = {name: {key: str(facts.get(key, "")) for key in FACTS} for name, facts in layers.items()}
    return MaskFile(step, bits, final.shapes, said)


def _opened(path: Path) -> Any:
    import safetensors

    try:
        check_regular(path)
        return safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise CheckpointError(path, f"truncated or not a safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def _read(opened: Any, name: str, path: Path) -> Any:
    """One tensor; types that numpy does not have are an error of the file, not of the program."""
    try:
        return opened.get_tensor(name)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(path, f"{name} has a type that no mask has") from error
