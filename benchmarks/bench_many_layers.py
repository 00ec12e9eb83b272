"""Python overhead of many small sparse layers in `apply`, `compress` and a step, in CPU time.

Dense and sparse SGD steps on n linear layers of 8x8 alternate; their difference is the overhead of
this library. Masks do not change in these steps.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from harness import machine
from torch import nn

import sparsewright as sparse


class Net:
    """Layers with their optimizer and the measured times of its steps."""

    def __init__(self, layers: int, make=None):
        self.model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(layers)])
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        if make is not None:
            self.sparsity = make()
            self.sparsity.apply(self.model)
            self.sparsity.apply(self.optimizer)
        self.backward, self.step = [], []

    def train(self, x):
        """Do one training step; time the backward pass and the optimizer step."""
        self.optimizer.zero_grad()
        loss = self.model(x).sum()
        begin = time.process_time()
        loss.backward()
        middle = time.process_time()
        self.optimizer.step()
        self.backward.append(middle - begin)
        self.step.append(time.process_time() - middle)


METHODS = {
    "static": lambda: sparse.Static(0.5),
    "rigl, no update": lambda: sparse.RigL(sparsity=0.5, update={"freq": 10**6, "start": 10**6}),
}


def measure_steps(layers, rounds):
    """Yield each method's extra microseconds per sparse parameter, in backward pass and step."""
    nets = {"dense": Net(layers), **{name: Net(layers, make) for name, make in METHODS.items()}}
    x = torch.randn(2, 8)
    for _ in range(rounds):
        for net in nets.values():
            net.train(x)
    for name in METHODS:
        parts = []
        for part in ("backward", "step"):
            pairs = zip(getattr(nets[name], part), getattr(nets["dense"], part), strict=True)
            parts.append(1e6 * statistics.median(a - b for a, b in list(pairs)[2:]) / layers)
        yield name, *parts


def measure_setup(layers, tries):
    """Return the milliseconds per layer that `apply` and `compress` take."""
    times = []
    for _ in range(tries):
        model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])
        begin = time.process_time()
        sparse.Static(0.5).apply(model)
        middle = time.process_time()
        sparse.compress(model, verbose=False)
        times.append((middle - begin, time.process_time() - middle))
    return [1e3 * min(column) / layers for column in zip(*times, strict=True)]


def main():
    """Measure, and print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for layers in args.layers:
        apply, compress = measure_setup(layers, 2 if layers < 1000 else 1)
        print(f"{layers} layers: apply {apply:.3f}, compress {compress:.3f} ms per layer")
    for name, backward, step in measure_steps(args.layers[0], args.rounds):
        total = backward + step
        print(f"{name}: backward {backward:.2f} + step {step:.2f} = {total:.2f} us per parameter")


if __name__ == "__main__":
    main()
