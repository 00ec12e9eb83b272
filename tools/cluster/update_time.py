"""Seconds of an update, computed from measured rates and given bandwidths.

If a rate or bandwidth is missing, the time is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparsewright.storage import MaskedStorage
from tools.cluster.memory import Training, Weight
from tools.cluster.topology import Cluster
from tools.cluster.traffic import update_traffic


@dataclass(frozen=True)
class Rates:
    """Measured times: (operation, dtype) -> list of (entries, seconds), by ascending size."""

    times: dict[tuple[str, str], list[tuple[int, float]]]

    def seconds(self, operation: str, dtype: torch.dtype, entries: int) -> float | None:
        """Interpolate between the measured sizes; beyond the largest, use its rate.

        Returns:
            Seconds, or None if the operation was not measured with this dtype.
        """
        measured = self.times.get((operation, str(dtype).removeprefix("torch.")))
        if not measured:
            return None
        sizes, seconds = zip(*measured, strict=True)
        if entries > sizes[-1]:
            return seconds[-1] / sizes[-1] * entries
        return float(np.interp(entries, sizes, seconds))


def operations(training: Training, is_sharded: bool) -> dict[str, list[tuple[str, torch.dtype]]]:
    """Return an update's operations for one weight, by part; each passes over local entries."""
    method, p, mask = training.method, training.precision, torch.bool
    if not method.choices:
        return {"selection": [], "random": [], "other passes": []}
    chosen = [
        ("select sharded" if is_sharded else f"select {among}", dtype)
        for among, dtype in method.selections(p)
    ]
    passes = [("finite", p.gradient), ("changes", mask), ("mask", mask), ("mask", mask)]
    passes += [("prune", p.weight), ("prune", p.gradient)]
    passes += [("prune", p.state)] * training.states + [("prune", torch.float32)] * p.master
    passes += [("mask", mask)] * (3 * method.drops_and_grows)
    passes += [("finite", p.gradient)] * method.needs_dense_gradient
    random = [("random", torch.float32)] * method.has_random_score
    return {"selection": chosen, "random": random, "other passes": passes}


def update_seconds(
    weights: Sequence[Weight], training: Training, cluster: Cluster, rates: Rates
) -> dict[str, float | None]:
    """Return an update's seconds by part: selection, random, other passes, communication, total.

    A part is None if it needs an unknown rate or bandwidth, and the total is None if one of its
    parts is. The time is modeled for masked weights only (nan otherwise).
    """
    sparse, parts = [w for w in weights if w.sparse], {}
    for part, passes in operations(training, cluster.shards > 1).items():
        local = [w.local(cluster.shards) for w in sparse]
        times = [rates.seconds(*pass_, entries) for entries in local for pass_ in passes]
        parts[part] = total(times) if training.storage is MaskedStorage else math.nan
    moved = update_traffic(weights, training, cluster)
    parts["communication"] = total([c.seconds(cluster.latency) for c in moved])
    return {**parts, "total": total(parts.values())}


def total(parts: Iterable[float | None]) -> float | None:
    """Return the sum, or None if a part is unknown."""
    known = list(parts)
    return None if None in known else sum(known, 0.0)
