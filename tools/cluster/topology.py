"""Devices, what joins them, and the time of what they send each other."""

from __future__ import annotations

from dataclasses import dataclass

PARALLEL = ("ddp", "fsdp", "hybrid")


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
