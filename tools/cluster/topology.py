"""Devices, the links between them, and the time of their collectives."""

from __future__ import annotations

from dataclasses import dataclass

PARALLEL = ("ddp", "fsdp", "hybrid")


@dataclass(frozen=True)
class Cluster:
    """Devices and the links between them.

    Args:
        devices: number of devices.
        per_node: number of devices in a node.
        parallel: `ddp` (replicas), `fsdp` (sharded over all devices) or `hybrid` (sharded inside a
            node, replicated across nodes).
        intra, inter: GB/s of one device in one direction, inside its node and between nodes; None
            if unknown.
        latency: seconds of a collective call in addition to its bytes; None if unknown.
    """

    devices: int = 1
    per_node: int = 8
    parallel: str = "ddp"
    intra: float | None = None
    inter: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        if self.parallel not in PARALLEL:
            names = ", ".join(PARALLEL)
            raise ValueError(f"parallel must be one of {names}, got {self.parallel!r}")
        if self.devices < 1 or self.per_node < 1 or self.devices % self.shards:
            raise ValueError(
                f"{self.devices} devices do not divide into nodes of {self.per_node}; "
                "give a multiple"
            )

    @property
    def shards(self) -> int:
        """Return the number of shards of a weight."""
        whole = {"ddp": 1, "fsdp": self.devices, "hybrid": min(self.per_node, self.devices)}
        return whole[self.parallel]

    @property
    def replicas(self) -> int:
        """Return the number of replicas of the model."""
        return self.devices // self.shards

    @property
    def shard_bandwidth(self) -> float | None:
        """Return the GB/s of the slowest link between the shards of a replica."""
        inside = self.devices <= self.per_node or self.parallel == "hybrid"
        return self.intra if inside else self.inter

    @property
    def replica_bandwidth(self) -> float | None:
        """Return the GB/s of the slowest link between replicas."""
        return self.intra if self.devices <= self.per_node else self.inter


@dataclass(frozen=True)
class Collective:
    """Equal collectives over a ring.

    Args:
        kind: `all-reduce`, `all-gather` or `reduce-scatter`.
        payload: bytes of the whole tensor.
        ways: number of participating devices.
        bandwidth: GB/s; None if unknown.
        calls: number of collectives.
    """

    kind: str
    payload: float
    ways: int
    bandwidth: float | None
    calls: int = 1

    @property
    def bytes(self) -> float:
        """Return the bytes that one device sends.

        A ring all-reduce is a reduce-scatter followed by an all-gather.
        """
        passes = 2 if self.kind == "all-reduce" else 1
        return self.calls * passes * (self.ways - 1) / self.ways * self.payload

    def seconds(self, latency: float | None) -> float | None:
        """Return the time of the bytes plus the latency of the calls; None without a bandwidth."""
        if self.ways == 1:
            return 0.0
        if self.bandwidth is None:
            return None
        return self.bytes / (self.bandwidth * 1e9) + self.calls * (latency or 0.0)
