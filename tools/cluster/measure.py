"""Measured rates of an update's operations on this machine's CPU or GPU."""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from sparsewright import kernels
from sparsewright.kernels import sharded
from tools.cluster.update_time import Rates

# Total size of the operands that one operation cycles through. It is larger than a cache, because
# an update reaches each weight after all the others.
COLD_BYTES = 256 << 20


def select_sharded(score: Tensor, num: int) -> Tensor:
    """Do one rank's part of an exact selection over shards."""
    flat = score.flatten()
    return sharded.select(flat, [len(flat)], [num], None, True, None, 0).view(score.shape)


def operations(
    entries: int, dtype: torch.dtype, device: str, level: float
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield (operation, dtype, a call on the next cold operands) for one size."""
    copies = max(1, min(64, COLD_BYTES // (entries * (2 * dtype.itemsize + 2))))
    kept = max(1, int((1 - level) * entries))
    stay = max(1, int(0.7 * kept))
    operands = []
    for _ in range(copies):
        dense = torch.randn(1, entries, device=device).to(dtype)
        mask = kernels.select(dense, kept)
        weight = torch.randn(1, entries, device=device).to(dtype).mul_(mask)
        operands.append((weight, mask, ~mask, dense))
    name, each = str(dtype).removeprefix("torch."), itertools.cycle(operands)

    def on_next(run):
        return lambda: run(*next(each))

    yield "select all", name, on_next(lambda w, m, o, g: kernels.select(w, kept))
    yield "select live", name, on_next(lambda w, m, o, g: kernels.select(w, stay, m))
    yield "select pruned", name, on_next(lambda w, m, o, g: kernels.select(g, kept - stay, o))
    yield "select sharded", name, on_next(lambda w, m, o, g: select_sharded(g, kept))
    yield "finite", name, on_next(lambda w, m, o, g: sharded.all_finite(g))
    yield "prune", name, on_next(lambda w, m, o, g: kernels.prune_(w, m))
    if dtype == torch.float32:
        # A bfloat16 weight also has float32 scores (SET) and bool masks.
        yield "changes", "bool", on_next(lambda w, m, o, g: kernels.count_changes(m, o))
        yield "mask", "bool", on_next(lambda w, m, o, g: m.logical_or(o))
        scores = torch.empty(entries, device=device)
        yield "random", name, lambda: kernels.uniform_(scores, 1)


def cases(
    entries: int, dtypes: list[str], device: str, level: float, sharded: bool = True
) -> dict[tuple[str, str, int], Callable[[], object]]:
    """Return the calls of one size by (operation, dtype, entries)."""

    def finished(run: Callable[[], object]) -> Callable[[], object]:
        return run if device == "cpu" else lambda: (run(), torch.cuda.synchronize())

    return {
        (operation, dtype, entries): finished(run)
        for name in dtypes
        for operation, dtype, run in operations(entries, getattr(torch, name), device, level)
        if sharded or operation != "select sharded"
    }


Times = dict[tuple[str, str, int], tuple[list[float], list[float]]]


def measure(sizes: list[int], dtypes: list[str], device: str, level: float, rounds: int) -> Times:
    """Return CPU and wall seconds of every operation at every size, in interleaved rounds."""
    times: Times = {}
    for entries in sorted(sizes):
        many = rounds if entries >= 1 << 20 else 5 * rounds
        times |= harness.interleave(cases(entries, dtypes, device, level), many)
    return times


def medians(times: Times, device: str) -> list[dict[str, Any]]:
    """Return one row of a file of rates for each case."""
    return [
        {
            "device": device,
            "operation": operation,
            "dtype": dtype,
            "entries": entries,
            "cpu_s": statistics.median(cpu),
            "wall_s": statistics.median(wall),
        }
        for (operation, dtype, entries), (cpu, wall) in times.items()
    ]


def read(path: str | Path, clock: str = "wall_s") -> Rates:
    """Read the rates that `python -m tools.cluster rates` wrote.

    Args:
        path: CSV file.
        clock: `wall_s`, or `cpu_s` for one thread on a machine that other jobs use.
    """
    with Path(path).open(newline="") as file:
        return to_rates(list(csv.DictReader(file)), clock)


def to_rates(rows: list[dict[str, Any]], clock: str = "wall_s") -> Rates:
    """Return the rates of measured rows."""
    times: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        point = (int(row["entries"]), float(row[clock]))
        times.setdefault((row["operation"], row["dtype"]), []).append(point)
    return Rates({key: sorted(points) for key, points in times.items()})
