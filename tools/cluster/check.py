"""Comparison of predicted and measured memory and update time, for models that fit one machine.

Each model runs in its own process, which prints its measurements as one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.harness import peak_of

import sparsewright as sparse
from benchmarks import harness
from tools.cluster import measure, models
from tools.cluster.memory import PRECISIONS, Training, memory
from tools.cluster.topology import Cluster
from tools.cluster.update_time import update_seconds

ROOT = Path(__file__).parents[2]
# (layers, width) of models with gated MLPs 8/3 as wide and 128 words. A layer has about 12 width^2
# sparse weights.
SIZES = {"tiny": (1, 64), "6M": (8, 256), "25M": (8, 512), "101M": (8, 1024)}


# All use the level at which the rates are measured.
ALGORITHMS = {
    name: {"algorithm": name, "sparsity": 0.9, "update": {"freq": 100}} for name in ("set", "rigl")
}
RISING = {"type": "cubic", "init": 0.9, "final": 0.95, "begin": 0, "end": 100_000}
ALGORITHMS["gmp"] = {"algorithm": "gmp", "sparsity": RISING, "update": {"freq": 100}}


def shape_of(layers: int, width: int) -> models.Shape:
    """Return the shape of a Llama with so few words that almost all its weights are sparse."""
    return models.Shape(layers, width, width * 8 // 3 // 64 * 64, 4, 2, 128)


def resident() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Run:
    """Train one model, timing the mask updates that follow the optimizer's own work."""

    def __init__(self, shape: models.Shape, name: str, precision: str) -> None:
        self.model = models.Decoder(shape).to(PRECISIONS[precision].weight)
        # The fused AdamW allocates no temporaries.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.clock = (0.0, 0.0)
        self.optimizer.register_step_post_hook(self._start)
        self.sparsity = sparse.configure(ALGORITHMS[name])
        self.sparsity.apply(self.model)
        self.sparsity.apply(self.optimizer)
        self.tokens = torch.randint(shape.vocab, (1, 8))

    def _start(self, *_: object) -> None:
        self.clock = (time.process_time(), time.perf_counter())

    def step(self) -> tuple[float, float]:
        """Do one step; return the CPU and wall seconds after the optimizer's own work."""
        self.optimizer.zero_grad()
        self.model(self.tokens).float().square().mean().backward()
        self.optimizer.step()
        return time.process_time() - self.clock[0], time.perf_counter() - self.clock[1]

    def move_to(self, step: int) -> None:
        """Set the number of finished steps."""
        state = self.sparsity.state_dict()
        state["algorithms"][0]["steps"] = [step]
        self.sparsity.load_state_dict(state)


def child(what: str, name: str, precision: str, layers: int, width: int, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm = Run(shape_of(1, width), name, precision)
    for step in (50, 98, 99):
        warm.move_to(step)
        warm.step()
    del warm
    base = resident()
    run = Run(shape_of(layers, width), name, precision)
    run.move_to(50)
    run.step()
    held = resident() - base
    if what == "memory":
        run.move_to(98)
        run.step()
        print(json.dumps({"held": held, "peak": peak_of(run.step) - base}))
        return
    # Rates are measured in the same rounds, at the model's sizes, so that other load on the machine
    # slows both.
    weights = models.weights_of(run.model)
    dtypes = sorted({"float32", str(PRECISIONS[precision].weight).removeprefix("torch.")})
    rated = [
        measure.cases(n, dtypes, "cpu", 0.9, sharded=False)
        for n in sorted({w.numel for w in weights if w.sparse})
    ]
    found = []
    for _ in range(rounds):
        run.move_to(49)
        plain = run.step()
        run.move_to(98)
        run.step()
        update = [after - before for before, after in zip(plain, run.step(), strict=True)]
        times: measure.Times = {}
        for cases in rated:
            times |= harness.interleave(cases, 1, warm_up=0)
        found.append({"update": update, "rates": measure.medians(times, "cpu")})
    print(json.dumps(found))


def measured(what: str, name: str, precision: str, layers: int, width: int, rounds: int) -> Any:
    command = [sys.executable, "-m", __spec__.name, what, name, precision]
    environment = dict(os.environ)
    if what == "memory":
        # Freed tensors return to the system immediately, so resident memory equals held memory.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command += map(str, (layers, width, rounds))
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout)


def compare(
    sizes: list[str], algorithms: list[str], precisions: list[str], rounds: int
) -> list[harness.Row]:
    """Return rows that compare measured and predicted values; their ratio is max(r, 1 / r)."""
    rows = []
    for size, precision, name in itertools.product(sizes, precisions, algorithms):
        run = (name, precision, *SIZES[size])
        with torch.device("meta"):
            weights = models.weights_of(models.Decoder(shape_of(*SIZES[size])))
        case, training = f"{name}, {precision}, {size}", Training(name, 0.9, PRECISIONS[precision])
        held = memory(weights, training, Cluster())
        extra = held.pop("update extra")
        found = measured("memory", *run, 1)
        wanted = {"held": sum(held.values()), "peak": sum(held.values()) + extra}
        rows += [row(f"{case}, {what}", [[found[what]]], [[wanted[what]]]) for what in wanted]
        timed = measured("time", *run, rounds)
        seconds = []
        for clock in ("cpu_s", "wall_s"):
            rates = [measure.to_rates(each["rates"], clock) for each in timed]
            parts = [update_seconds(weights, training, Cluster(), r) for r in rates]
            seconds.append([part["total"] for part in parts])
        updates = list(zip(*(each["update"] for each in timed), strict=True))
        rows.append(row(f"{case}, update", updates, seconds))
    return rows


def row(case: str, found: Sequence[Sequence[float]], wanted: list[list[float]]) -> harness.Row:
    """Return the row of one quantity: one value (memory), or CPU and wall seconds (time)."""
    ratios = [
        statistics.median(a / b for a, b in zip(*kind, strict=True))
        for kind in zip(found, wanted, strict=True)
    ]
    medians, predicted = ([statistics.median(kind) for kind in each] for each in (found, wanted))
    shown = "  ".join(
        f"{m:.4g} / {p:.4g} = {r:.3f}" for m, p, r in zip(medians, predicted, ratios, strict=True)
    )
    print(f"{case:28} measured / predicted: {shown}", flush=True)
    apart = [max(r, 1 / r) if r > 0 else math.inf for r in ratios]
    milliseconds = [1000 * m for m in medians] if len(medians) == 2 else [0, 0]
    return harness.Row("scale", case, "predicted", apart[0], apart[-1], *milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "time"])
    parser.add_argument("name")
    parser.add_argument("precision")
    parser.add_argument("sizes", type=int, nargs=3)
    args = parser.parse_args()
    child(args.what, args.name, args.precision, *args.sizes)


if __name__ == "__main__":
    main()
