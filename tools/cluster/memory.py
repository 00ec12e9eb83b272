"""Bytes that one device holds, the one with the largest shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsewright.algorithms import ALL
from sparsewright.core.counts import num_kept
from sparsewright.layers import LayerKind
from sparsewright.plan.costs import METHODS, Method, Precision, held_bytes
from sparsewright.storage import ALL as STORAGES
from sparsewright.storage import CompressedStorage, MaskedStorage, Storage
from sparsewright.storage.storage import Footprint
from tools.cluster.topology import Cluster

PRECISIONS = {
    "float32": Precision.of(torch.float32),
    "bfloat16": Precision.of(torch.bfloat16),
    "mixed": Precision(torch.bfloat16, torch.bfloat16, torch.float32, master=True),
}


@dataclass(frozen=True)
class Weight:
    """One parameter of a model.

    Args:
        name: full name.
        shape: its shape.
        sparse: whether it is trained sparse.
        kind: the kind of its layer; None: it cannot be compressed.
    """

    name: str
    shape: tuple[int, ...]
    sparse: bool
    kind: LayerKind | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def local(self, shards: int) -> int:
        """Entries on the device with the most, sharded by rows."""
        return self.part(shards).numel()

    def part(self, shards: int) -> torch.Size:
        """Shape on the device with the most, sharded by rows."""
        return torch.Size([math.ceil(self.shape[0] / shards), *self.shape[1:]])


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        algorithm: a key of `METHODS`.
        sparsity: level, 0..1.
        precision: dtypes.
        states: optimizer tensors of a weight's shape (AdamW 2, SGD with momentum 1).
        stored: name of the storage of sparse weights; "": the algorithm's own.
    """

    algorithm: str = "rigl"
    sparsity: float = 0.9
    precision: Precision = PRECISIONS["float32"]
    states: int = 2
    stored: str = ""

    @property
    def storage(self) -> type[Storage]:
        """How sparse weights are stored that can be.

        Raises:
            ValueError: the algorithm cannot train weights that are stored so.
        """
        able = next(cls for cls in ALL if cls.name == self.algorithm).storages
        name = self.stored or able[0]
        if name not in able:
            raise ValueError(f"{self.algorithm} needs storage {' or '.join(able)}, not {name}")
        return next(cls for cls in STORAGES if cls.name == name)

    @property
    def is_compressed(self) -> bool:
        """Whether sparse weights are stored as values and index, where they can be."""
        return self.storage is CompressedStorage

    @property
    def method(self) -> Method:
        """What its mask updates do."""
        return METHODS[self.algorithm]

    def footprint(self, weight: Weight, shards: int = 1) -> Footprint:
        """What one device stores of a weight."""
        part = weight.part(shards)
        if not weight.sparse:
            return Footprint(part.numel(), 0)
        storage = MaskedStorage if self.is_compressed and weight.kind is None else self.storage
        kept = num_kept(self.sparsity, part.numel())
        return storage.footprint(part, kept, self.precision.weight, weight.kind)


def memory(weights: Sequence[Weight], training: Training, cluster: Cluster) -> dict[str, float]:
    """Bytes of one device: weights, gradients, optimizer state, masks and index, update extra.

    The extra is what an update step holds on top; it is modelled for masked weights only (else
    nan).
    """
    if training.is_compressed and cluster.shards > 1:
        raise ValueError("compressed weights are replicated, not sharded: use ddp")
    stored = [training.footprint(weight, cluster.shards) for weight in weights]
    held = [held_bytes(each, training.precision, training.states) for each in stored]
    is_modelled = training.storage is MaskedStorage
    extra = update_extra(weights, training, cluster) if is_modelled else math.nan
    return {
        "weights": float(sum(each.weight for each in held)),
        "gradients": float(sum(each.gradient for each in held)),
        "optimizer state": float(sum(each.state for each in held)),
        "masks and index": float(sum(each.mask for each in held)),
        "update extra": extra,
    }


def update_extra(weights: Sequence[Weight], training: Training, cluster: Cluster) -> float:
    """Bytes that an update step holds on top: the dense gradients left, and temporaries of one."""
    method = training.method
    dense = training.precision.gradient.itemsize * method.needs_dense_gradient
    peak = left = 0.0
    for weight in reversed([w for w in weights if w.sparse]):
        entries = weight.local(cluster.shards)
        left += dense * entries
        peak = max(peak, left + method.temporary_bytes * entries)
    return peak
