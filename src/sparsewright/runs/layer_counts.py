"""Count the live connections of each layer in a state dict."""

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
        name: the weight's key in the state dict.
        kept: entries that the mask keeps, or nonzero entries for a weight without a mask.
        total: all entries.
        masked: True if the state dict has a mask for the weight.
        problem: how weight and mask disagree; "" if they agree.
        churn: mean of `(dropped + grown) / kept` over the weight's updates; None without updates.
    """

    name: str
    kept: int
    total: int
    masked: bool
    problem: str = ""
    churn: float | None = None

    @property
    def sparsity(self) -> float:
        """Return the pruned fraction, 0..1."""
        return 1 - self.kept / self.total


@dataclass
class Churn:
    """Measure how many connections the mask updates of a run change.

    Attributes:
        totals: name -> [number of updates, sum of their `(dropped + grown) / kept`].
    """

    totals: dict[str, list[float]] = field(default_factory=dict)

    def record(self, update: MaskUpdate) -> None:
        """Count one update of one parameter."""
        entry = self.totals.setdefault(update.name, [0, 0.0])
        entry[0] += 1
        entry[1] += update.churn

    def mean(self, name: str) -> float | None:
        """Return the mean churn per update, or None if the mask never changed."""
        count, total = self.totals.get(name, (0, 0.0))
        return total / count if count else None


def count_layers(weights: Mapping[str, Tensor], churn: Churn | None = None) -> list[Layer]:
    """Count each weight that has a mask or at least two dimensions, in natural order of names.

    A mask without a weight gives a layer with a problem.

    >>> import torch
    >>> weight, mask = torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([[False, True]] * 2)
    >>> (layer,) = count_layers({"fc.weight": weight, "fc.weight_mask": mask})
    >>> layer.kept, layer.total, layer.problem
    (2, 4, '1 nonzero entry outside the mask')
    """
    layers = []
    for name in sorted(weights, key=natural_order):
        tensor = weights[name]
        if name.endswith(MASK_SUFFIX):
            if name.removesuffix(MASK_SUFFIX) not in weights and tensor.dtype == torch.bool:
                kept, total = int(tensor.count_nonzero()), max(1, tensor.numel())
                problem = "the state dict has no weight for this mask"
                layers.append(Layer(name, kept, total, True, problem))
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
        problem = f"the mask must be torch.bool; got {mask.dtype}"
    elif mask.shape != weight.shape:
        problem = f"the mask has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}"
    elif outside := int((weight[~mask] != 0).count_nonzero()):
        problem = f"{outside} nonzero {'entry' if outside == 1 else 'entries'} outside the mask"
    replaced = churn.mean(name) if churn else None
    kept = int(mask.count_nonzero())
    return Layer(name, kept, weight.numel(), True, problem, replaced)


def read_weights(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Find the file that holds the weights at `path`, and read its state dict.

    Args:
        path: one of:

            - a `.safetensors` file, possibly from `save_compressed`;
            - a `torch.save` file with a state dict, possibly under the key `model` or `state_dict`;
            - a run folder: its trained weights are read, or else its last checkpoint.

    Returns:
        The file and its state dict.

    Raises:
        CheckpointError: the file does not exist, is damaged, or holds no state dict.
        RunError: the folder is not a run folder.
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
    raise CheckpointError(path, f"expected a state dict, but the keys are: {keys}")


def _is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether an object is a non-empty dict of tensors by name."""
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(k, str) and _has_entries(v) for k, v in content.items())


def _has_entries(value: object) -> bool:
    """Return whether an object is a tensor with entries that can be counted."""
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized)
