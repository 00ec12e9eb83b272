"""Bytes that one device holds, the one with the largest shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsewright.core.counts import num_kept
from sparsewright.plan.costs import METHODS, Method, Precision, held_bytes, index_bytes
from tools.cluster.topology import Cluster

PRECISIONS = {
    "float32": Precision.of(torch.float32),
    "bfloat16": Precision.of(torch.bfloat16),
    "mixed": Precision(torch.bfloat16, torch.bfloat16, torch.float32, master=True),
}


@dataclass(frozen=True)
class Weight:
    """One parameter of a model: its name, its shape, and whether it is trained sparse."""

    name: str
    shape: tuple[int, ...]
    sparse: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def local(self, shards: int) -> int:
        """Entries on the device with the most, sharded by rows."""
        return math.ceil(self.shape[0] / shards) * math.prod(self.shape[1:])


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        algorithm: a key of `METHODS`.
        sparsity: level, 0..1.
        precision: dtypes.
        states: optimizer tensors of a weight's shape (AdamW 2, SGD with momentum 1).
        compressed: whether sparse matrices are stored as values and index (float32, CPU).
    """

    algorithm: str = "rigl"
    sparsity: float = 0.9
    precision: Precision = PRECISIONS["float32"]
    states: int = 2
    compressed: bool = False

    @property
    def method(self) -> Method:
        """What its mask updates do."""
        return METHODS[self.algorithm]

    def live(self, weight: Weight, shards: int = 1) -> int:
        """Entries of a weight that one device stores."""
        if self.compresses(weight):
            return num_kept(self.sparsity, weight.numel)
        return weight.local(shards)

    def compresses(self, weight: Weight) -> bool:
        """Whether a weight is stored as values and index."""
        return self.compressed and weight.sparse and len(weight.shape) == 2


def memory(weights: Sequence[Weight], training: Training, cluster: Cluster) -> dict[str, float]:
    """Bytes of one device: weights, gradients, optimizer state, masks and index, update extra.

    The extra is what an update step holds on top; a compressed weight's is not modelled (nan).
    """
    if training.compressed and cluster.shards > 1:
        raise ValueError("compressed weights are replicated, not sharded: use ddp")
    held = []
    for weight in weights:
        live = training.live(weight, cluster.shards)
        mask = live if weight.sparse else 0
        if training.compresses(weight):
            mask = index_bytes(*weight.shape, live)
        held.append(held_bytes(live, mask, training.precision, training.states))
    extra = math.nan if training.compressed else update_extra(weights, training, cluster)
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
