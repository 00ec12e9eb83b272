"""Bytes that devices move, in a step and in an update."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewright.plan.costs import HISTOGRAM_BYTES, held_bytes, selection_rounds
from sparsewright.storage.storage import Footprint
from tools.cluster.memory import Training, Weight
from tools.cluster.topology import Cluster, Collective


def step_traffic(
    weights: Sequence[Weight], training: Training, cluster: Cluster
) -> list[Collective]:
    """What every step moves between devices. It is what dense training moves: none is ours."""
    shards, replicas = cluster.shards, cluster.replicas
    stepped = [Footprint(training.footprint(w).entries, 0) for w in weights]
    held = [held_bytes(each, training.precision, 0) for each in stepped]
    payload, gradient = sum(each.weight for each in held), sum(each.gradient for each in held)
    moved = []
    if shards > 1:
        link = cluster.shard_bandwidth
        moved.append(Collective("all-gather", payload, shards, link, calls=2))
        moved.append(Collective("reduce-scatter", gradient, shards, link))
    if replicas > 1:
        link = cluster.replica_bandwidth
        moved.append(Collective("all-reduce", gradient / shards, replicas, link))
    return moved


def update_traffic(
    weights: Sequence[Weight], training: Training, cluster: Cluster
) -> list[Collective]:
    """What an update moves between devices beyond its step: all of it is ours.

    Replicated: the dense gradients of RigL, averaged. Sharded: of each selection the number of
    candidates, the histograms, and the ties of each shard (an int64); of each update whether the
    gradients are finite, the live connections to drop from, and the counts of what changed.
    """
    sparse, shards, moved = [w for w in weights if w.sparse], cluster.shards, []
    method = training.method
    if cluster.parallel == "ddp" and method.needs_dense_gradient and cluster.replicas > 1:
        for weight in sparse:
            payload = weight.numel * training.precision.gradient.itemsize
            link = cluster.replica_bandwidth
            moved.append(Collective("all-reduce", payload, cluster.replicas, link))
    if shards > 1:
        link = cluster.shard_bandwidth
        for _, dtype in method.selections(training.precision):
            calls = len(sparse) * selection_rounds(dtype)
            moved += [
                Collective("all-reduce", HISTOGRAM_BYTES, shards, link, calls),
                Collective("all-gather", 8 * shards, shards, link, len(sparse)),
                Collective("all-reduce", 16, shards, link, len(sparse)),
            ]
        for payload in method.counts:
            moved.append(Collective("all-reduce", payload, shards, link, len(sparse)))
    return moved
