"""Time and memory of dense, masked and compressed training steps.

Trains the transformer of `bench_step.py` (d = 512, 6 layers, AdamW) on batches of 8 x 128 tokens,
with all attention and MLP weights at one level. Also times RigL updates of one 4096x4096 weight,
masked and compressed.
"""

from __future__ import annotations

import argparse

import harness
import torch
from bench_step import Trainer
from torch import nn

import sparsewright as sparse


def sparse_bytes(trainer):
    """Return the bytes of the linear layers: weights, masks, indices, gradients, Adam state."""
    total = 0
    for module in trainer.model.modules():
        if not isinstance(module, nn.Linear | sparse.nn.SparseLinear):
            continue
        compressed = isinstance(module, sparse.nn.SparseLinear)
        param = module.values if compressed else module.weight
        tensors = [param, param.grad, *module.buffers(), *trainer.optimizer.state[param].values()]
        total += sum(t.numel() * t.element_size() for t in tensors if t.ndim)
        total += module.layout.nbytes if compressed else 0
    return total


def measure_steps(level, rounds, width, layers, batch, tokens):
    x = torch.randn(batch, tokens, width)
    rigl = {"algorithm": "rigl", "sparsity": level, "update": {"freq": 1_000_000}}
    trainers = {
        "dense": Trainer(None, x, width, layers),
        "masked": Trainer(rigl, x, width, layers),
        "compressed": Trainer({**rigl, "storage": "compressed"}, x, width, layers),
    }
    times = harness.interleave({n: t.step for n, t in trainers.items()}, rounds, warm_up=2)
    case = f"step {batch}x{tokens} {level:.0%}"
    held = {name: sparse_bytes(trainer) for name, trainer in trainers.items()}
    share = held["compressed"] / held["dense"]
    return [
        harness.compare("train", case, times["compressed"], "dense", times["dense"]),
        harness.compare("train", case, times["compressed"], "masked", times["masked"]),
        harness.Row("train", f"bytes {level:.0%}", "dense", share, share, 0, 0),
    ]


def measure_update(side, rounds):
    """Time the optimizer step that includes a RigL update of one square weight."""
    rows = []
    for storage in ("masked", "compressed"):
        model = nn.Sequential(nn.Linear(side, side, bias=False))
        optimizer = torch.optim.AdamW(model.parameters())
        sparsity = sparse.configure(
            {"algorithm": "rigl", "sparsity": 0.9, "update": 100, "storage": storage}
        )
        sparsity.apply(model)
        sparsity.apply(optimizer)
        x, cpu, wall = torch.randn(64, side), [], []
        for index in range(rounds + 1):
            state = sparsity.state_dict()
            state["algorithms"][0]["steps"] = [99 if index else 0]
            sparsity.load_state_dict(state)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            times = harness.interleave({"update": optimizer.step}, 1, warm_up=0)["update"]
            if index:
                cpu += times[0]
                wall += times[1]
        seconds = sorted(cpu)[len(cpu) // 2]
        rows.append(
            harness.Row(
                "train",
                f"rigl update {side}x{side} {storage}",
                "1 s",
                seconds,
                sorted(wall)[len(wall) // 2],
                1000 * seconds,
                1000 * seconds,
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--levels", type=float, nargs="*", default=[0.8, 0.9, 0.95])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--side", type=int, default=4096)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for level in args.levels:
        rows += measure_steps(level, args.rounds, args.width, args.layers, args.batch, args.tokens)
    rows += measure_update(args.side, 5)
    harness.report(rows, f"train-{args.threads}-{harness.kernels()}")


if __name__ == "__main__":
    main()
