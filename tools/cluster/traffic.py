"""Bytes that devices send in a step and in an update."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewright.plan.costs import HISTOGRAM_BYTES, held_bytes, selection_rounds
from sparsewright.storage.storage import Footprint
from tools.cluster.memory import Training, Weight
from tools.cluster.topology import Cluster, Collective


def step_traffic(
    weights: Sequence[Weight], training: Training, cluster: Cluster
) -> list[Collective]:
    """Return the collectives of every step. Dense training does the same."""
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
    """Return the collectives that a mask update adds to its step.

    Replicas average RigL's dense gradients. Shards exchange, for each selection, the number of
    candidates, the histograms, and the number of ties of each shard (an int64). For each update
    they exchange whether the gradients are finite, the number of live connections to drop from, and
    the counts of changes.
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
