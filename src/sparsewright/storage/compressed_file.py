"""Compressed checkpoints: safetensors files with live values and bit-packed masks."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.core.packing import pack_mask, unpack_mask
from sparsewright.errors import CheckpointError, ShapeError
from sparsewright.formats.atomic import write_atomically
from sparsewright.formats.names import MASK_SUFFIX

FORMAT = "sparsewright-compressed-1"
_VALUES = ".values"


@dataclass(frozen=True)
class SavedSize:
    """Size of a compressed checkpoint.

    Attributes:
        nbytes: size of the file, in bytes.
        dense_nbytes: bytes of the same tensors stored dense, without masks.
    """

    nbytes: int
    dense_nbytes: int

    def __str__(self) -> str:
        share = self.nbytes / max(1, self.dense_nbytes)
        return f"{self.nbytes:,} bytes, {share:.1%} of {self.dense_nbytes:,} dense"


def save_compressed(
    model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]
) -> SavedSize:
    """Save a model's state, with each sparse weight as live values and a bit-packed mask.

    The file is written under a temporary name, synced and renamed, so it is either complete or
    missing. Requires the package `safetensors`.

    Args:
        model: masked or compressed model, or its state dict.
        path: path of the file.

    Returns:
        The size of the file, and the size of the same tensors stored dense.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    state = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    dense = 0
    masks = {key + MASK_SUFFIX for key in state if _is_sparse(key, state)}
    for key, tensor in state.items():
        mask = state.get(key + MASK_SUFFIX)
        if mask is not None and key + MASK_SUFFIX in masks:
            shapes[key] = list(tensor.shape)
            tensors[key + _VALUES] = tensor.detach()[mask].contiguous().cpu()
            tensors[key + MASK_SUFFIX] = pack_mask(mask)
        elif key not in masks:
            tensors[key] = tensor.detach().contiguous().cpu().clone()
        if key not in masks:
            dense += tensor.numel() * tensor.element_size()
    metadata = {"format": FORMAT, "shapes": json.dumps(shapes)}
    data = save(tensors, {**metadata, "sha256": _digest(tensors, metadata["shapes"])})
    write_atomically(Path(path), data)
    return SavedSize(len(data), dense)


def load_compressed(
    path: str | os.PathLike[str], model: nn.Module | None = None
) -> dict[str, Tensor]:
    """Load a checkpoint that `save_compressed` wrote, after checking its consistency.

    Args:
        path: path of the file.
        model: model that loads the state, masked, compressed or dense; None: only return the state.

    Returns:
        The state dict, with dense weights and bool masks.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file is truncated, has another format, contains masks that do not fit
            their values, differs from what was written, or does not fit the model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            path, f"not a file that save_compressed wrote; its format must be {FORMAT}"
        )
    digest = _digest(tensors, metadata.get("shapes", ""))
    state = _expand(path, tensors, _shapes(path, metadata))
    if metadata.get("sha256") != digest:
        raise CheckpointError(path, "its content changed after it was written (sha256 differs)")
    if model is not None:
        keys = model.state_dict().keys()
        taken = {k: v for k, v in state.items() if k in keys or not _is_mask(k, state)}
        try:
            model.load_state_dict(taken)
        except RuntimeError as error:
            problem = f"does not fit the model: {' '.join(str(error).split())}"
            raise CheckpointError(path, problem) from error
    return state


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: the file is truncated, or is not a safetensors file.
    """
    from safetensors import safe_open

    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except OSError:
        raise
    except Exception as error:  # safetensors documents no errors for bad bytes
        raise CheckpointError(path, f"not a safetensors file, or truncated: {error}") from error


@contextmanager
def _utf8_name(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the file's name if it is UTF-8, as safetensors requires, else a descriptor's path."""
    name = os.fsdecode(path)
    if os.fsencode(name).decode("utf-8", "ignore") == name:
        yield name
    else:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def _digest(tensors: Mapping[str, Tensor], shapes: str) -> str:
    """Return the SHA-256 of a file's tensors, sorted by name, and of the shapes in its metadata."""
    digest = hashlib.sha256(shapes.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_sparse(key: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor has a mask and is zero everywhere else."""
    tensor, mask = state[key], state.get(key + MASK_SUFFIX)
    if mask is None or mask.dtype != torch.bool or mask.shape != tensor.shape:
        return False
    return not bool(tensor.detach()[~mask].any())


def _is_mask(key: str, state: Mapping[str, Tensor]) -> bool:
    return key.endswith(MASK_SUFFIX) and key.removesuffix(MASK_SUFFIX) in state


def _shapes(path: Any, metadata: Mapping[str, str]) -> dict[str, torch.Size]:
    """Return the shapes of the sparse weights, from the file's metadata."""
    try:
        shapes = json.loads(metadata.get("shapes", ""))
    except (ValueError, RecursionError):
        shapes = None
    if not isinstance(shapes, dict) or not all(map(_is_shape, shapes.values())):
        raise CheckpointError(
            path, "the shapes in its metadata must be a dict of lists of integers >= 0"
        )
    return {key: torch.Size(shape) for key, shape in shapes.items()}


def _is_shape(shape: object) -> bool:
    """Return whether a value can be a tensor's shape; Python's integers do not overflow."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        return False
    size: int = math.prod(max(n, 1) for n in shape)
    return size < 2**48


def _expand(
    path: Any, tensors: dict[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Build dense weights and bool masks from values and bits."""
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        values, bits = tensors.pop(key + _VALUES, None), tensors.pop(key + MASK_SUFFIX, None)
        if values is None or bits is None:
            raise CheckpointError(path, f"{key}: its values or its mask are missing")
        try:
            mask = unpack_mask(bits, shape)
        except ShapeError as error:
            raise CheckpointError(path, f"{key}: {error}") from None
        if values.ndim != 1 or values.numel() != int(mask.sum()):
            kept = int(mask.sum())
            raise CheckpointError(
                path, f"{key}: {values.numel()} values do not fit a mask of {kept} connections"
            )
        if not (values.is_floating_point() or values.is_complex()):
            raise CheckpointError(
                path, f"{key}: its values must be floating-point or complex, got {values.dtype}"
            )
        weight = values.new_zeros(shape)
        weight[mask] = values
        state[key], state[key + MASK_SUFFIX] = weight, mask
    twice = sorted(state.keys() & tensors.keys())
    if twice:
        raise CheckpointError(path, f"{twice[0]}: stored twice, dense and as live values")
    return {**state, **tensors}
