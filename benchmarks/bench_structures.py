"""Time of a mask by each structure and by global distributions, relative to plain selection.

`topk` ranks a weight by magnitude, and `drop_and_grow` is RigL's update. Each structure is compared
with `Unstructured` on the same weight at the same level: 50% for N:M, otherwise 90%. The other rows
compare the work over all layers, under one threshold, with the selection in each layer alone.
"""

from __future__ import annotations

import argparse
import math

import harness
import torch
from torch import nn

import sparsewright as sparse
from sparsewright.structures import NM, Block, Channel, FanIn, Groups, Unstructured

LEVEL, DROP = 0.9, 0.3
POOLS = ("mean", "max", "l2", "sum")


def structures(side):
    """Return the structures for a weight with `side` outputs and inputs, by name."""
    blocks = {f"block {n}x{n} {pool}": Block((n, n), pool) for n in (4, 16) for pool in POOLS}
    return {
        "2:4": NM(2, 4),
        "4:8": NM(4, 8),
        "16:32": NM(16, 32),
        "2:4 transposable": NM(2, 4, transposable=True),
        **{name: block for name, block in blocks.items() if side % max(block.shape) == 0},
        "channel 0": Channel(0),
        "channel 1": Channel(1),
        "channel 0 inf": Channel(0, math.inf),
        "channel 1 l2": Channel(1, 2),
        "fan_in": FanIn(),
        "fan_in ablate": FanIn(ablate=0.03),
        "groups in": Groups(inputs=4),
        "groups out": Groups(outputs=4),
    }


class Weight:
    """A weight with the mask of one structure, and a gradient."""

    def __init__(self, shape, structure, level):
        self.structure, self.level = structure, level
        torch.manual_seed(0)
        self.dense, self.gradient = torch.randn(shape), torch.randn(shape)
        self.mask = structure.topk(torch.rand(shape), level)
        self.sparse = self.dense * self.mask

    def topk(self):
        """Keep the largest |w| of the dense weight."""
        return self.structure.topk(self.dense, self.level, magnitude=True)

    def drop_and_grow(self):
        """Update the mask of the sparse weight."""
        return self.structure.drop_and_grow(self.sparse, self.mask, self.level, DROP, self.gradient)


def measure(shape, rounds, only):
    """Return the rows of each structure for a weight of one shape."""
    size = "x".join(map(str, shape))
    rows = []
    for name, structure in structures(shape[0]).items():
        if only and only not in name:
            continue
        level = 0.5 if isinstance(structure, NM) else LEVEL
        mine, plain = (Weight(shape, each, level) for each in (structure, Unstructured()))
        for operation in ("topk", "drop_and_grow"):
            cases = {"mine": getattr(mine, operation), "plain": getattr(plain, operation)}
            times = harness.interleave(cases, rounds, warm_up=1)
            case = f"{operation}, {name}, {size}"
            rows.append(
                harness.compare("structures", case, times["mine"], "unstructured", times["plain"])
            )
    return rows


class Model:
    """Equal linear layers that GMP prunes further at each update."""

    def __init__(self, layers, width, distribution):
        torch.manual_seed(0)
        self.model = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(layers)])
        for index, layer in enumerate(self.model):
            nn.init.normal_(layer.weight, std=1 / (1 + index % 7))
        rising = {"type": "linear", "init": 0.5, "slope": 1e-4}
        self.sparsity = sparse.GMP(rising, update=1, distribution=distribution)
        self.sparsity.apply(self.model)

    def update(self):
        """Do one mask update."""
        self.sparsity.update()


def each_alone(weights):
    return [Unstructured().topk(w, LEVEL, magnitude=True) for w in weights.values()]


def all_together(weights, levels):
    found = levels(weights, LEVEL)
    return [Unstructured().topk(w, found[name], magnitude=True) for name, w in weights.items()]


def measure_global(layers, width, rounds):
    """Return the rows of the distributions with one threshold for all layers."""
    models = {name: Model(layers, width, name) for name in ("uniform", "global", "lamp")}
    weights = {f"{i}": torch.randn(width, width) / (1 + i % 7) for i in range(layers)}
    distributions = sparse.distributions
    cases = {
        "alone": lambda: each_alone(weights),
        "levels, global": lambda: distributions.global_magnitude(weights, LEVEL),
        "levels, lamp": lambda: distributions.lamp(weights, LEVEL),
        "masks, global": lambda: all_together(weights, distributions.global_magnitude),
        "masks, lamp": lambda: all_together(weights, distributions.lamp),
        **{f"update, {name}": model.update for name, model in models.items()},
    }
    times = harness.interleave(cases, rounds, warm_up=1)
    against = {name: "update, uniform" if "update" in name else "alone" for name in cases}
    size = f"{layers} x {width}x{width}"
    return [
        harness.compare("structures", f"{case}, {size}", times[case], other, times[other])
        for case, other in against.items()
        if case != other
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the names of structures, or 'global'")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for shape in ((args.side, args.side), (args.channels, args.channels, 3, 3)):
        rows += measure(shape, args.rounds, args.only)
    if args.only in ("", "global"):
        rows += measure_global(args.layers, args.width, args.rounds)
    harness.report(rows, "structures")


if __name__ == "__main__":
    main()
