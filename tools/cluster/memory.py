"""Memory of the device with the largest shard, in bytes."""

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
        kind: kind of its layer; None if the weight cannot be compressed.
    """

    name: str
    shape: tuple[int, ...]
    sparse: bool
    kind: LayerKind | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def local(self, shards: int) -> int:
        """Return the number of entries on the device with the most, sharded by rows."""
        return self.part(shards).numel()

    def part(self, shards: int) -> torch.Size:
        """Return the shape on the device with the most entries, sharded by rows."""
        return torch.Size([math.ceil(self.shape[0] / shards), *self.shape[1:]])


@dataclass(frozen=True)
class Training:
    """Settings of one training run.

    Args:
        algorithm: a key of `METHODS`.
        sparsity: sparsity level, 0..1.
        precision: dtypes of weights, gradients and optimizer state.
        states: number of optimizer tensors with a weight's shape (AdamW 2, SGD with momentum 1).
        stored: name of the storage of sparse weights; "" for the algorithm's default.
    """

    algorithm: str = "rigl"
    sparsity: float = 0.9
    precision: Precision = PRECISIONS["float32"]
    states: int = 2
    stored: str = ""

    @property
    def storage(self) -> type[Storage]:
        """Return the storage of the sparse weights that support it.

        Raises:
            ValueError: the algorithm does not support this storage.
        """
        able = next(cls for cls in ALL if cls.name == self.algorithm).storages
        name = self.stored or able[0]
        if name not in able:
            raise ValueError(f"{self.algorithm} needs storage {' or '.join(able)}, not {name}")
        return next(cls for cls in STORAGES if cls.name == name)

    @property
    def is_compressed(self) -> bool:
        """Return whether sparse weights that can be compressed are stored as values and index."""
        return self.storage is CompressedStorage

    @property
    def method(self) -> Method:
        """Return the cost of its mask updates."""
        return METHODS[self.algorithm]

    def footprint(self, weight: Weight, shards: int = 1) -> Footprint:
        """Return what one device stores for a weight."""
        part = weight.part(shards)
        if not weight.sparse:
            return Footprint(part.numel(), 0)
        storage = MaskedStorage if self.is_compressed and weight.kind is None else self.storage
        kept = num_kept(self.sparsity, part.numel())
        return storage.footprint(part, kept, self.precision.weight, weight.kind)


def memory(weights: Sequence[Weight], training: Training, cluster: Cluster) -> dict[str, float]:
    """Return one device's bytes by part.

    The parts are weights, gradients, optimizer state, masks and index, and update extra: the
    additional bytes of an update step, which are modeled for masked weights only (nan otherwise).

    Raises:
        ValueError: compressed weights would be sharded.
    """
    if training.is_compressed and cluster.shards > 1:
        raise ValueError("compressed weights cannot be sharded; use parallel='ddp'")
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
    """Return the extra bytes of an update step: remaining dense gradients and temporaries."""
    method = training.method
    dense = training.precision.gradient.itemsize * method.needs_dense_gradient
    peak = left = 0.0
    for weight in reversed([w for w in weights if w.sparse]):
        entries = weight.local(cluster.shards)
        left += dense * entries
        peak = max(peak, left + method.temporary_bytes * entries)
    return peak
