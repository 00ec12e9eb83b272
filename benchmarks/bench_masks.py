"""Time of the mask kernels relative to plain torch and numpy, printed as CSV.

Run: python benchmarks/bench_masks.py [--quick] [--threads N] [--only prune|select|rows]

The candidates of a case run in turn. Columns: case, candidate, cpu_us, wall_us (medians per call),
ratio (CPU time of the baseline, which is the case's first candidate, divided by the candidate's;
above 1 is faster than the baseline).
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from sparsewright import kernels
from sparsewright.kernels import reference

Candidates = dict[str, Callable[[], object]]


def measure(candidates: Candidates, repeats: int, batch: int) -> dict[str, tuple[float, float]]:
    """Run the candidates in turn; return their median CPU and wall microseconds per call."""
    times = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(repeats):
        for name, call in candidates.items():
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            for _ in range(batch):
                call()
            wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
            times[name].append((cpu / batch / 1e3, wall / batch / 1e3))
    return {n: tuple(map(statistics.median, zip(*t, strict=True))) for n, t in times.items()}


def topk_mask(score: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.topk(score.abs(), k, dim=1, sorted=False).indices
    return torch.zeros(score.shape, dtype=torch.bool).scatter_(1, index, True)


def sort_mask(score: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.sort(score.abs(), dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros(score.shape, dtype=torch.bool).scatter_(1, index, True)


def partition_mask(score: torch.Tensor, k: int) -> torch.Tensor:
    """Select with numpy, without the tie rule: the least work that numpy needs."""
    size = np.abs(score.numpy())
    at = size.shape[1] - k
    kth = np.partition(size, at, axis=1)[:, at]
    return torch.from_numpy(size >= kth[:, None])


def rigl(weight, grad, mask, keep, kept, choose) -> torch.Tensor:
    """Drop and grow by a `choose` without candidates: excluded entries get the lowest score."""
    still = choose(torch.where(mask, weight.abs() + 1, 0), keep)
    return still | choose(torch.where(still, 0, grad.abs() + 1), kept - keep)


def rigl_select(weight, grad, mask, keep, kept, select) -> torch.Tensor:
    still = select(weight, keep, mask)
    return still | select(grad, kept - keep, ~still)


def prune_case(n: int, dtype: torch.dtype, threads: int):
    x, target = torch.randn(n).to(dtype), torch.empty(n, dtype=dtype)
    mask = torch.rand(n) < 0.1
    return f"prune {str(dtype)[6:]} {n}", {
        "copy_": lambda: target.copy_(x),
        "prune_": lambda: kernels.prune_(x, mask, threads=threads),
        "prune_ reference": lambda: reference.prune_(x, mask),
        "mul_ (keeps NaN)": lambda: x.mul_(mask),
    }


def prune_list_case(size: int, n: int, threads: int):
    xs = [torch.randn(n) for _ in range(size)]
    targets, masks = [torch.empty(n) for _ in xs], [torch.rand(n) < 0.1 for _ in xs]
    return f"prune list of {size} x {n}", {
        "copy_ loop": lambda: [t.copy_(x) for t, x in zip(targets, xs, strict=True)],
        "_foreach_copy_": lambda: torch._foreach_copy_(targets, xs),
        "prune_many_": lambda: kernels.prune_many_(xs, masks, threads=threads),
        "prune_ loop": lambda: [kernels.prune_(*pair) for pair in zip(xs, masks, strict=True)],
    }


def prune_cases(threads: int, quick: bool):
    for n in [1 << 14, 1 << 20] + ([] if quick else [1 << 24]):
        for dtype in (torch.float32, torch.bfloat16):
            yield prune_case(n, dtype, threads)
    for size, n in ((500, 64), (36, 1024), (36, 1 << 16)):
        yield prune_list_case(size, n, threads)


def gmp_case(name: str, score: torch.Tensor, kept: int, threads: int):
    candidates = {
        "topk": lambda: topk_mask(score, kept),
        "select": lambda: kernels.select(score, kept, threads=threads),
        "reference": lambda: reference.select(score, kept),
    }
    if score.dtype is torch.float32:
        candidates["partition"] = lambda: partition_mask(score, kept)
        candidates["sort"] = lambda: sort_mask(score, kept)
    return f"GMP update {score.shape[1]} {name}", candidates


def select_cases(threads: int, quick: bool):
    n = 1 << (20 if quick else 24)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, n, generator=generator)
    grad = torch.randn(1, n, generator=generator)
    kept = n // 10
    mask = kernels.select(torch.randn(1, n, generator=generator), kept)
    kernels.prune_(weight, mask)
    keep = int(0.7 * kept)

    def select(score, num, among):
        return kernels.select(score, num, among, threads=threads)

    yield (
        f"RigL update {n} 90%",
        {
            "topk": lambda: rigl(weight, grad, mask, keep, kept, topk_mask),
            "select": lambda: rigl_select(weight, grad, mask, keep, kept, select),
            "partition": lambda: rigl(weight, grad, mask, keep, kept, partition_mask),
            "reference": lambda: rigl_select(weight, grad, mask, keep, kept, reference.select),
        },
    )
    yield gmp_case("dense", grad, kept, threads)
    yield gmp_case("90% zeros", weight, kept, threads)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        yield gmp_case(str(dtype)[6:], grad.to(dtype), kept, threads)
    other = kernels.select(grad, kept)
    yield (
        f"count_changes {n}",
        {
            "torch": lambda: reference.count_changes(mask, other),
            "count_changes": lambda: kernels.count_changes(mask, other, threads=threads),
        },
    )


def row_case(rows: int, length: int, threads: int):
    score = torch.randn(rows, length)
    k = length // 2 if length <= 16 else length // 10
    return f"rows {rows}x{length}", {
        "topk": lambda: topk_mask(score, k),
        "select": lambda: kernels.select(score, k, threads=threads),
        "partition": lambda: partition_mask(score, k),
    }


def count_case(mask: torch.Tensor, threads: int):
    return f"count rows {mask.shape[0]}x{mask.shape[1]}", {
        "sum": lambda: mask.sum(1),
        "count_rows": lambda: kernels.count_rows(mask, threads=threads),
    }


def row_cases(threads: int, quick: bool):
    for rows, length in ((4096, 4096), (65536, 64), (65536, 256), (1 << 22, 4), (1 << 20, 8)):
        yield row_case(rows // 16 if quick else rows, length, threads)
        mask = torch.rand(rows // 16 if quick else rows, length) < 0.5
        yield count_case(mask, threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["prune", "select", "rows"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(kernels.info(), file=sys.stderr)
    out = csv.writer(sys.stdout)
    out.writerow(["case", "candidate", "cpu_us", "wall_us", "ratio"])
    groups = {"prune": (prune_cases, 9), "select": (select_cases, 3), "rows": (row_cases, 3)}
    for cases, repeats in [groups[options.only]] if options.only else groups.values():
        for case, candidates in cases(options.threads, options.quick):
            batch = 200 if "16384" in case or "list" in case else 1
            found = measure(candidates, repeats, batch)
            base = next(iter(found.values()))[0]
            for name, (cpu, wall) in found.items():
                out.writerow([case, name, f"{cpu:.1f}", f"{wall:.1f}", f"{base / cpu:.2f}"])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
