"""Extra peak memory of masked training over dense training, in bytes per matrix weight.

Each case runs in its own process, which resets its peak resident memory after a warm-up (Linux) and
reads it after the measured step. The expected values are 1 byte for the masks between updates, and
4 more bytes for the dense gradients on a RigL update step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import harness
import torch
from bench_step import ALGORITHMS, Trainer


def child(name, what, width, layers, tokens):
    torch.set_num_threads(1)
    trainer = Trainer(ALGORITHMS.get(name), torch.randn(1, tokens, width), width, layers)
    for _ in range(4):
        trainer.step()
    if what == "update step":
        trainer.move_to(99)
    print(
        harness.peak_of(trainer.step),
        sum(p.numel() for p in trainer.model.parameters() if p.ndim > 1),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--child", nargs=2)
    args = parser.parse_args()
    sizes = [args.width, args.layers, args.tokens]
    if args.child:
        child(*args.child, *sizes)
        return

    def measure(name, what):
        command = [sys.executable, __file__, "--child", name, what]
        command += ["--width", str(sizes[0]), "--layers", str(sizes[1]), "--tokens", str(sizes[2])]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return [int(number) for number in result.stdout.split()]

    base, weights = measure("dense", "step")
    rows = []
    for name, what in (
        ("static", "step"),
        ("set", "step"),
        ("set", "update step"),
        ("rigl", "step"),
        ("rigl", "update step"),
    ):
        extra = (measure(name, what)[0] - base) / weights
        case = f"{name}, {what}, extra bytes per weight"
        rows.append(harness.Row("memory", case, "1 byte", extra, extra, 0, 0))
    harness.report(rows, "memory")


if __name__ == "__main__":
    main()
