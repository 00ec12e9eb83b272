"""Helpers for the benchmarks: interleaved timing, one CSV format, and the model to train."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsewright

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))


@dataclass
class Row:
    """One measured ratio.

    Attributes:
        benchmark, case: names of the benchmark and of the measured case.
        against: name of the case that it is compared with.
        ratio, wall_ratio: CPU time (or bytes) and wall time, divided by those of `against`.
        cpu_ms, wall_ms: median CPU and wall milliseconds of the case.
    """

    benchmark: str
    case: str
    against: str
    ratio: float
    wall_ratio: float
    cpu_ms: float
    wall_ms: float


def interleave(
    cases: dict[str, Callable[[], object]], rounds: int, warm_up: int = 3
) -> dict[str, tuple[list[float], list[float]]]:
    """Run the cases in turn, `rounds` times; return CPU and wall seconds of each, by name."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for index in range(warm_up + rounds):
        for name, run in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if index >= warm_up:
                times[name][0].append(cpu)
                times[name][1].append(wall)
    return times


def compare(
    benchmark: str,
    case: str,
    mine: tuple[list[float], list[float]],
    against: str,
    other: tuple[list[float], list[float]],
) -> Row:
    """Return a row with the median, over the rounds, of the ratio of two interleaved cases."""
    ratios = [
        statistics.median(a / b for a, b in zip(mine[kind], other[kind], strict=True))
        for kind in (0, 1)
    ]
    cpu, wall = (1000 * statistics.median(mine[kind]) for kind in (0, 1))
    return Row(benchmark, case, against, ratios[0], ratios[1], cpu, wall)


def machine() -> str:
    """Return the processor, thread count and versions that identify a measurement."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}; kernels: {kernels()}; threads: {torch.get_num_threads()}; "
        f"torch {torch.__version__}; "
        f"sparsewright {sparsewright.__version__}; python {platform.python_version()}"
    )


def kernels() -> str:
    """Return the instruction set of the active kernels, or "reference"."""
    return sparsewright.info()["isa"] or "reference"


def report(rows: list[Row], name: str) -> None:
    """Print the rows and write them to `results/<name>.csv`."""
    print(f"# {machine()}")
    for row in rows:
        print(
            f"{row.benchmark:14} {row.case:44} / {row.against:22} cpu {row.ratio:7.3f}  "
            f"wall {row.wall_ratio:7.3f}  ({row.cpu_ms:.2f} ms)"
        )
    write([asdict(row) for row in rows], name)


def write(rows: list[dict[str, Any]], name: str) -> Path:
    """Write rows with equal keys to `results/<name>.csv`, each with the machine's description."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["machine", *rows[0]])
        writer.writeheader()
        writer.writerows({"machine": machine(), **row} for row in rows)
    sys.stdout.flush()
    return path


def append(row: dict[str, Any], name: str) -> None:
    """Append a row to `results/<name>.csv`; the first row sets the columns."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def peak_of(run: Callable[[], object]) -> int:
    """Call `run`, and return the peak resident bytes of this process during the call."""
    Path("/proc/self/clear_refs").write_text("5")
    run()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


class Transformer(nn.Module):
    """A causal transformer without embeddings, with 12 d^2 weights per layer.

    Args:
        width: number of features, d.
        layers: number of blocks.
        heads: number of attention heads.
    """

    def __init__(self, width: int = 512, layers: int = 6, heads: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, tokens, width]` to the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
