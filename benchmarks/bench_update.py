"""Time of a mask update of one weight, relative to plain torch and other libraries.

Each row compares a RigL or GMP update at one size with (a) `torch.topk` and scatter, (b)
`torch.sort`, or (c) the magnitude masks of `torch.nn.utils.prune` and `torch.ao.pruning`. A ratio
of 0.1 means that this library takes a tenth of the time.
"""

from __future__ import annotations

import argparse
import warnings

import harness
import torch
from torch import nn
from torch.nn.utils import prune

from sparsewright.core.counts import num_kept
from sparsewright.core.masks import drop_and_grow, make_mask_topk_sparsity

LEVEL, DROP = 0.9, 0.3


def by_topk(score, k):
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask.scatter_(0, torch.topk(score.flatten(), k, sorted=False).indices, True)
    return mask.reshape(score.shape)


def by_sort(score, k):
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[torch.sort(score.flatten(), descending=True).indices[:k]] = True
    return mask.reshape(score.shape)


def rigl_by(select, weight, mask, grad):
    """Update a mask by RigL, with `select(score, k)` returning the mask of the k largest scores."""
    live = int(mask.sum())
    kept = select(weight.abs() * mask, num_kept(DROP, live))
    grown = select(
        grad.abs().masked_fill(kept, -1), num_kept(LEVEL, weight.numel()) - int(kept.sum())
    )
    return kept | grown


def torch_prune(weight):
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight)
    prune.l1_unstructured(layer, "weight", amount=LEVEL)
    return layer.weight_mask


def ao_pruning(weight):
    from torch.ao.pruning import WeightNormSparsifier

    layer = nn.Sequential(nn.Linear(1, 1, bias=False))
    layer[0].weight = nn.Parameter(weight)
    sparsifier = WeightNormSparsifier(
        sparsity_level=LEVEL, sparse_block_shape=(1, 1), zeros_per_block=1
    )
    sparsifier.prepare(layer, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    return layer[0].parametrizations.weight[0].mask


def measure(side, rounds):
    torch.manual_seed(0)
    weight, grad = torch.randn(side, side), torch.randn(side, side)
    mask = make_mask_topk_sparsity(torch.rand(side, side), LEVEL)
    sparse_weight, k = weight * mask, num_kept(LEVEL, side * side)
    rigl = {
        "ours": lambda: drop_and_grow(sparse_weight, mask, LEVEL, DROP, grad),
        "topk+scatter": lambda: rigl_by(by_topk, sparse_weight, mask, grad),
    }
    gmp = {
        "ours": lambda: make_mask_topk_sparsity(weight, LEVEL, magnitude=True),
        "topk+scatter": lambda: by_topk(weight.abs(), k),
        "nn.utils.prune": lambda: torch_prune(weight),
    }
    if side <= 4096:
        rigl["sort"] = lambda: rigl_by(by_sort, sparse_weight, mask, grad)
        gmp["sort"] = lambda: by_sort(weight.abs(), k)
        gmp["ao.pruning"] = lambda: ao_pruning(weight)
    assert torch.equal(rigl["ours"](), rigl["topk+scatter"]())
    assert torch.equal(gmp["ours"](), gmp["topk+scatter"]())
    rows = []
    for name, cases in (("rigl", rigl), ("gmp", gmp)):
        times = harness.interleave(cases, rounds, warm_up=1)
        rows += [
            harness.compare("update", f"{name}, {side}x{side}", times["ours"], other, times[other])
            for other in cases
            if other != "ours"
        ]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    rows = [row for side in args.sides for row in measure(side, args.rounds)]
    harness.report(rows, "update")


if __name__ == "__main__":
    main()
