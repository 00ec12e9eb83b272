"""The cost of sparse training on a cluster, as arithmetic: bytes held, bytes moved, seconds.

Nothing here measures anything. Times come from `Rates`, which somebody measured; a time whose rate
is not there is None, never a guess. Bytes are those of one device, the one with the largest shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparsewright.core.counts import num_kept

HISTOGRAM_BITS = 11  # of the keys, in each round of a selection over shards
HISTOGRAM_BYTES = 8 << HISTOGRAM_BITS
ALGORITHMS = ("static", "gmp", "set", "rigl")
PARALLEL = ("ddp", "fsdp", "hybrid")


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
class Precision:
    """Dtypes of weight, gradient and optimizer state, and whether there is a float32 master."""

    weight: torch.dtype
    gradient: torch.dtype
    state: torch.dtype
    master: bool = False


PRECISIONS = {
    "float32": Precision(torch.float32, torch.float32, torch.float32),
    "bfloat16": Precision(torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "mixed": Precision(torch.bfloat16, torch.bfloat16, torch.float32, master=True),
}


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        algorithm: one of `ALGORITHMS`.
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

    def live(self, weight: Weight, shards: int = 1) -> int:
        """Entries of a weight that one device stores."""
        if self.compresses(weight):
            return num_kept(self.sparsity, weight.numel)
        return weight.local(shards)

    def compresses(self, weight: Weight) -> bool:
        """Whether a weight is stored as values and index."""
        return self.compressed and weight.sparse and len(weight.shape) == 2


@dataclass(frozen=True)
class Cluster:
    """Devices, and what joins them.

    Args:
        devices: how many.
        per_node: devices of a node.
        parallel: `ddp` (replicas), `fsdp` (sharded over all), `hybrid` (sharded inside a node,
            replicated across nodes).
        intra, inter: GB/s, one direction, of one device inside its node and between nodes; None:
            not given.
        latency: seconds of a collective call beyond its bytes; None: not given.
    """

    devices: int = 1
    per_node: int = 8
    parallel: str = "ddp"
    intra: float | None = None
    inter: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel = {self.parallel!r}: one of {', '.join(PARALLEL)}")
        if self.devices < 1 or self.per_node < 1 or self.devices % self.shards:
            raise ValueError(f"{self.devices} devices are no whole number of {self.per_node}")

    @property
    def shards(self) -> int:
        """Into how many parts a weight is cut."""
        whole = {"ddp": 1, "fsdp": self.devices, "hybrid": min(self.per_node, self.devices)}
        return whole[self.parallel]

    @property
    def replicas(self) -> int:
        """How many copies of the model there are."""
        return self.devices // self.shards

    @property
    def shard_bandwidth(self) -> float | None:
        """GB/s of the slowest link between the shards of a replica."""
        inside = self.devices <= self.per_node or self.parallel == "hybrid"
        return self.intra if inside else self.inter

    @property
    def replica_bandwidth(self) -> float | None:
        """GB/s of the slowest link between replicas."""
        return self.intra if self.devices <= self.per_node else self.inter


@dataclass(frozen=True)
class Collective:
    """`calls` equal collectives over a ring.

    Args:
        kind: what it is.
        payload: bytes of the whole tensor.
        ways: devices that take part.
        bandwidth: GB/s; None: not given.
    """

    kind: str
    payload: float
    ways: int
    bandwidth: float | None
    calls: int = 1

    @property
    def bytes(self) -> float:
        """Bytes that one device sends: a ring all-reduce is a reduce-scatter and an all-gather."""
        passes = 2 if self.kind == "all-reduce" else 1
        return self.calls * passes * (self.ways - 1) / self.ways * self.payload

    def seconds(self, latency: float | None) -> float | None:
        """Time of the bytes, and of the calls if a latency was given; None without a bandwidth."""
        if self.ways == 1:
            return 0.0
        if self.bandwidth is None:
            return None
        return self.bytes / (self.bandwidth * 1e9) + self.calls * (latency or 0.0)


def index_bytes(rows: int, cols: int, nnz: int) -> int:
    """Bytes of the index of a compressed weight: CSR, and the blocks of it and its transpose."""
    density = nnz / max(1, rows * cols)
    width = 160 if density > 0.15 else 192 if density > 0.07 else 256
    segments = 0
    for height, length in ((rows, cols), (cols, rows)):
        segments += height * math.ceil(length / min(width, max(1, length))) + 1
    return 4 * (rows + 1) + 4 * nnz + 4 * segments + 2 * (2 + 4) * nnz


def memory(weights: Sequence[Weight], training: Training, cluster: Cluster) -> dict[str, float]:
    """Bytes of one device: weights, gradients, optimizer state, masks and index, update extra.

    The extra is what an update step holds on top; a compressed weight's is not modelled (nan).
    """
    p = training.precision
    if training.compressed and cluster.shards > 1:
        raise ValueError("compressed weights are replicated, not sharded: use ddp")
    held = {"weights": 0.0, "gradients": 0.0, "optimizer state": 0.0, "masks and index": 0.0}
    for weight in weights:
        live = training.live(weight, cluster.shards)
        if training.compresses(weight):
            held["masks and index"] += index_bytes(*weight.shape, live)
        elif weight.sparse:
            held["masks and index"] += live
        held["weights"] += live * p.weight.itemsize
        held["gradients"] += live * p.gradient.itemsize
        held["optimizer state"] += live * (training.states * p.state.itemsize + 4 * p.master)
    peak = math.nan if training.compressed else update_extra(weights, training, cluster)
    return {**held, "update extra": peak}


def update_extra(weights: Sequence[Weight], training: Training, cluster: Cluster) -> float:
    """Bytes that an update step holds on top: the dense gradients left, and temporaries of one."""
    if training.algorithm == "static":
        return 0.0
    gradient = training.precision.gradient.itemsize
    dense = gradient if training.algorithm == "rigl" else 0
    # Masks: the new one; of drop and grow three. SET's growth has a float32 score too.
    passing = {"gmp": 1, "set": 4 + 3, "rigl": 3}[training.algorithm]
    peak = left = 0.0
    for weight in reversed([w for w in weights if w.sparse]):
        n = weight.local(cluster.shards)
        left += dense * n
        peak = max(peak, left + passing * n)
    return peak


def step_traffic(
    weights: Sequence[Weight], training: Training, cluster: Cluster
) -> list[Collective]:
    """What every step moves between devices. It is what dense training moves: none is ours."""
    p, shards, replicas = training.precision, cluster.shards, cluster.replicas
    entries = sum(training.live(weight) for weight in weights)
    payload, gradient = entries * p.weight.itemsize, entries * p.gradient.itemsize
    moved = []
    if shards > 1:
        link = cluster.shard_bandwidth
        moved.append(Collective("all-gather", payload, shards, link, calls=2))
        moved.append(Collective("reduce-scatter", gradient, shards, link))
    if replicas > 1:
        link = cluster.replica_bandwidth
        moved.append(Collective("all-reduce", gradient / shards, replicas, link))
    return moved


def rounds_of(dtype: torch.dtype) -> int:
    """Histograms that a selection takes to find the k-th magnitude."""
    return math.ceil(8 * dtype.itemsize / HISTOGRAM_BITS)


def selections(training: Training) -> list[tuple[str, torch.dtype]]:
    """The selections of an update of one weight: among which entries, and the scores' dtype."""
    p = training.precision
    return {
        "static": [],
        "gmp": [("all", p.weight)],
        "set": [("live", p.weight), ("pruned", torch.float32)],
        "rigl": [("live", p.weight), ("pruned", p.gradient)],
    }[training.algorithm]


def update_traffic(
    weights: Sequence[Weight], training: Training, cluster: Cluster
) -> list[Collective]:
    """What an update moves between devices beyond its step: all of it is ours.

    Replicated: the dense gradients of RigL, averaged. Sharded: of each selection the number of
    candidates, the histograms, and the ties of each shard (an int64); of each update whether the
    gradients are finite, the live connections to drop from, and the counts of what changed.
    """
    sparse, shards, moved = [w for w in weights if w.sparse], cluster.shards, []
    if cluster.parallel == "ddp" and training.algorithm == "rigl" and cluster.replicas > 1:
        for weight in sparse:
            payload = weight.numel * training.precision.gradient.itemsize
            link = cluster.replica_bandwidth
            moved.append(Collective("all-reduce", payload, cluster.replicas, link))
    if shards > 1:
        link = cluster.shard_bandwidth
        for _, dtype in selections(training):
            calls = len(sparse) * rounds_of(dtype)
            moved += [
                Collective("all-reduce", HISTOGRAM_BYTES, shards, link, calls),
                Collective("all-gather", 8 * shards, shards, link, len(sparse)),
                Collective("all-reduce", 16, shards, link, len(sparse)),
            ]
        counts = {"static": [], "gmp": [8, 24], "set": [8, 8, 24], "rigl": [8, 8, 8, 24]}
        for payload in counts[training.algorithm]:
            moved.append(Collective("all-reduce", payload, shards, link, len(sparse)))
    return moved


@dataclass(frozen=True)
class Rates:
    """Measured times: (operation, dtype) -> (entries, seconds) of some sizes, ascending."""

    times: dict[tuple[str, str], list[tuple[int, float]]]

    def seconds(self, operation: str, dtype: torch.dtype, entries: int) -> float | None:
        """Between two sizes in proportion, beyond the largest at its rate; None: not measured."""
        measured = self.times.get((operation, str(dtype).removeprefix("torch.")))
        if not measured:
            return None
        sizes, seconds = zip(*measured, strict=True)
        if entries > sizes[-1]:
            return seconds[-1] / sizes[-1] * entries
        return float(np.interp(entries, sizes, seconds))


def operations(training: Training, is_sharded: bool) -> dict[str, list[tuple[str, torch.dtype]]]:
    """The operations of an update of one weight, by part; each is one pass over local entries."""
    p, mask = training.precision, torch.bool
    if training.algorithm == "static":
        return {"selection": [], "random": [], "other passes": []}
    chosen = [
        ("select sharded" if is_sharded else f"select {among}", dtype)
        for among, dtype in selections(training)
    ]
    passes = [("finite", p.gradient), ("changes", mask), ("mask", mask), ("mask", mask)]
    passes += [("prune", p.weight), ("prune", p.gradient)]
    passes += [("prune", p.state)] * training.states + [("prune", torch.float32)] * p.master
    if training.algorithm != "gmp":
        passes += [("mask", mask)] * 3
    if training.algorithm == "rigl":
        passes.append(("finite", p.gradient))
    random = [("random", torch.float32)] if training.algorithm == "set" else []
    return {"selection": chosen, "random": random, "other passes": passes}


def update_seconds(
    weights: Sequence[Weight], training: Training, cluster: Cluster, rates: Rates
) -> dict[str, float | None]:
    """Seconds of an update by part: selection, random, other passes, communication, total.

    A part is None if a rate or bandwidth that it needs is not known; so is a total with such a
    part. The time of compressed weights is not modelled (nan).
    """
    sparse, parts = [w for w in weights if w.sparse], {}
    for part, passes in operations(training, cluster.shards > 1).items():
        local = [w.local(cluster.shards) for w in sparse]
        times = [rates.seconds(*pass_, entries) for entries in local for pass_ in passes]
        parts[part] = math.nan if training.compressed else total(times)
    moved = update_traffic(weights, training, cluster)
    parts["communication"] = total([c.seconds(cluster.latency) for c in moved])
    return {**parts, "total": total(parts.values())}


def total(parts: Iterable[float | None]) -> float | None:
    """The sum; None if one of the parts is not known."""
    known = list(parts)
    return None if None in known else sum(known, 0.0)
