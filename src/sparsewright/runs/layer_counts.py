"""Counting what is kept, layer by layer, in a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from sparsewright.errors import CheckpointError, RunError
from sparsewright.events import MaskUpdate
from sparsewright.formats.names import MASK_SUFFIX, natural_order
from sparsewright.runs.run_folder import last_checkpoint
from sparsewright.runs.saved_state import read_state, read_tensors
from sparsewright.storage.compressed_file import FORMAT, load_compressed


@dataclass(frozen=True)
class Layer:
    """One weight of a network.

    Attributes:
        name: its key in the state dict.
        kept: entries kept by the mask; nonzero entries where there is no mask.
        total: entries.
        masked: whether the state dict has a mask for it.
        problem: what is wrong with weight and mask, or "".
        churn: mean over its updates of `(dropped + grown) / kept`; None: no updates.
    """

    name: str
    kept: int
    total: int
    masked: bool
    problem: str = ""
    churn: float | None = None

    @property
    def sparsity(self) -> float:
        """Fraction pruned, 0..1."""
        return 1 - self.kept / self.total


@dataclass
class Churn:
    """Counts, from a run's mask updates, how many connections each of them changed.

    Attributes:
        totals: name -> [number of updates, sum over them of `(dropped + grown) / kept`].
    """

    totals: dict[str, list[float]] = field(default_factory=dict)

    def record(self, update: MaskUpdate) -> None:
        """Count one update of one parameter."""
        entry = self.totals.setdefault(update.name, [0, 0.0])
        entry[0] += 1
        entry[1] += update.churn

    def mean(self, name: str) -> float | None:
        """Mean churn of an update, or None if the mask never changed."""
        count, total = self.totals.get(name, (0, 0.0))
        return total / count if count else None


def count_layers(weights: Mapping[str, Tensor], churn: Churn | None = None) -> list[Layer]:
    """Every weight of at least two dimensions or with a mask, by name, numbers as numbers.

    A mask without a weight is a layer with a problem.

    >>> import torch
    >>> weight, mask = torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([[False, True]] * 2)
    >>> (layer,) = count_layers({"fc.weight": weight, "fc.weight_mask": mask})
    >>> layer.kept, layer.total, layer.problem
    (2, 4, '1 nonzero outside the mask')
    """
    layers = []
    for name in sorted(weights, key=natural_order):
        tensor = weights[name]
        if name.endswith(MASK_SUFFIX):
            if name.removesuffix(MASK_SUFFIX) not in weights and tensor.dtype == torch.bool:
                kept, total = int(tensor.count_nonzero()), max(1, tensor.numel())
                layers.append(Layer(name, kept, total, True, "a mask without its weight"))
            continue
        mask = weights.get(name + MASK_SUFFIX)
        if tensor.numel() and (mask is not None or tensor.ndim > 1):
            layers.append(_count(name, tensor, mask, churn))
    return layers


def _count(name: str, weight: Tensor, mask: Tensor | None, churn: Churn | None) -> Layer:
    if mask is None:
        return Layer(name, int(weight.count_nonzero()), weight.numel(), masked=False)
    problem = ""
    if mask.dtype != torch.bool:
        problem = f"mask of type {mask.dtype}; allowed: torch.bool"
    elif mask.shape != weight.shape:
        problem = f"mask of shape {tuple(mask.shape)} on a weight of shape {tuple(weight.shape)}"
    elif outside := int((weight[~mask] != 0).count_nonzero()):
        problem = f"{outside} nonzero outside the mask"
    replaced = churn.mean(name) if churn else None
    kept = int(mask.count_nonzero())
    return Layer(name, kept, weight.numel(), True, problem, replaced)


def read_weights(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that holds the weights at `path`, and its state dict.

    Args:
        path: a `.safetensors` file (of `save_compressed` too), a `torch.save` file of a state dict
            (alone or under the key `model` or `state_dict`), or a run folder (its trained weights,
            else its last checkpoint).

    Raises:
        CheckpointError: no such file, damaged, or no state dict in it.
        RunError: a folder that is not a run.
    """
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise RunError(path, "not a run folder (no config.yaml)")
        trained = path / "model.safetensors"
        path = trained if trained.exists() else last_checkpoint(path) / "model.safetensors"
    if not path.exists():
        raise CheckpointError(path, "no such file or folder")
    if path.suffix == ".safetensors":
        tensors, metadata = read_tensors(path)
        return path, load_compressed(path) if metadata.get("format") == FORMAT else tensors
    content: dict[str, Any] = read_state(path)
    for candidate in (content, content.get("model"), content.get("state_dict")):
        if _is_state_dict(candidate):
            return path, candidate
    keys = ", ".join(map(str, list(content)[:5])) or "nothing"
    raise CheckpointError(path, f"not a state dict; it holds: {keys}")


def _is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether it is a dict of tensors by name, with something in it."""
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(k, str) and _has_entries(v) for k, v in content.items())


def _has_entries(value: object) -> bool:
    """Whether it is a tensor whose entries can be counted."""
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized)
