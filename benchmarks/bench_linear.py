"""Time of a compressed linear layer, relative to the dense layer and to other libraries.

`train` measures the forward pass and all gradients, `infer` the forward pass alone. A ratio below 1
is faster than dense; the speed-up is its inverse. SparseLab (PyPI: sparselab) is included if it is
installed.
"""

from __future__ import annotations

import argparse
import importlib.util

import harness
import torch
from torch import nn

from sparsewright.core.masks import make_mask_topk_sparsity
from sparsewright.nn import SparseLinear

SHAPES = [(1024, 4096), (4096, 1024)]


def layers(cols, rows, level):
    """Return a dense layer and a compressed layer of the same shape."""
    dense, other = nn.Linear(cols, rows), nn.Linear(cols, rows)
    mask = make_mask_topk_sparsity(torch.rand(rows, cols), level)
    other.weight.data.mul_(mask)
    return dense, SparseLinear.from_linear(other, mask)


def train_step(layer, x, dtype=None):
    def run():
        x.grad = None
        layer.zero_grad()
        if dtype is None:
            layer(x).backward(ones)
        else:
            with torch.autocast("cpu", dtype=dtype):
                y = layer(x)
            y.backward(ones.to(dtype))

    with torch.no_grad():
        ones = torch.randn_like(layer(x))
    return run


def sparselab_layer(cols, rows, level):
    import sparselab

    return sparselab.SparseLinear(cols, rows, sparsity=level)


def measure_training(cols, rows, level, tokens, rounds, peers):
    dense, compressed = layers(cols, rows, level)
    x = torch.randn(tokens, cols, requires_grad=True)
    cases = {
        "ours": train_step(compressed, x),
        "dense float32": train_step(dense, x),
        "dense bfloat16": train_step(dense, x, torch.bfloat16),
    }
    if peers and importlib.util.find_spec("sparselab"):
        cases["sparselab"] = train_step(sparselab_layer(cols, rows, level), x)
    times = harness.interleave(cases, rounds, warm_up=2)
    case = f"train {cols}->{rows} {level:.0%} {tokens} tokens"
    return [
        harness.compare("linear", case, times["ours"], other, times[other])
        for other in cases
        if other != "ours"
    ]


def measure_inference(side, level, tokens, rounds):
    dense, compressed = layers(side, side, level)
    x = torch.randn(tokens, side)
    with torch.inference_mode():
        times = harness.interleave(
            {"ours": lambda: compressed(x), "dense float32": lambda: dense(x)}, rounds
        )
    case = f"infer {side}x{side} {level:.0%} batch {tokens}"
    return harness.compare("linear", case, times["ours"], "dense float32", times["dense float32"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--levels", type=float, nargs="*", default=[0.6, 0.8, 0.9, 0.95])
    parser.add_argument("--tokens", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--side", type=int, default=4096)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for cols, out in SHAPES:
        for level in args.levels:
            for tokens in args.tokens:
                peers = tokens == 1024 and level >= 0.8
                rows += measure_training(cols, out, level, tokens, args.rounds, peers)
    for tokens in (1, 8, 64):
        rows.append(measure_inference(args.side, 0.9, tokens, 5 * args.rounds))
    harness.report(rows, f"linear-{args.threads}")


if __name__ == "__main__":
    main()
