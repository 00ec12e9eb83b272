"""Compare data parallelism with one process that trains on the joined batch; started by torchrun.

Every case trains a model on each rank with separate data. After every step it compares the ranks
bit by bit, and compares them with the joined run. The results go into a JSON file.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from helpers.cases import ALGORITHMS, attach
from helpers.distributed.choices import CHOICES
from helpers.distributed.ranks import as_rank
from helpers.support import assert_pruned, batch, make_mlp, masks_of, trained_by

STEPS = 50


class Branched(nn.Module):
    """An MLP with a second branch that only even ranks use, at every third step."""

    def __init__(self):
        super().__init__()
        self.body, self.branch = make_mlp(0), make_mlp(1)

    def forward(self, x, with_branch):
        return self.body(x) + (self.branch(x) if with_branch else 0)


VARIANTS = {
    "plain": {},
    "wrapped first": {"wrap_first": True, "gradient_as_bucket_view": True},
    "accumulation": {"micro": 2, "gradient_as_bucket_view": True},
    "accumulation, copied buckets": {"micro": 2},
    "static graph": {"static_graph": True},
    "unused parameters": {"find_unused_parameters": True, "branched": True},
    "unused parameters, bucket view": {
        "find_unused_parameters": True,
        "branched": True,
        "gradient_as_bucket_view": True,
    },
}
WITH_FOUR = ("accumulation", "unused parameters, bucket view")
WITH_EVERY_ALGORITHM = ("plain", *WITH_FOUR)
IN_EVERY_VARIANT = ("set", "rigl", "group", "group of ste and rigl")
COMPRESSED = {
    "static": ALGORITHMS["static"],
    "set": lambda: sparse.SET(0.4, sparsity=0.6, update=2),
    "rigl": lambda: sparse.RigL(0.4, sparsity=0.6, update=3),
    "rigl in groups": ALGORITHMS["rigl in groups"],
    "group": ALGORITHMS["group"],
}


def loss_of(model, x, step, rank):
    if isinstance(getattr(model, "module", model), Branched):
        return model(x, step % 3 == 0 and rank % 2 == 0).pow(2).mean()
    return model(x).pow(2).mean()


def backward(model, step, rank, world, micro):
    """Compute the gradient of this rank's part of a step's batch."""
    parts = batch(step, 8 * micro, 8).chunk(micro)
    for index, part in enumerate(parts):
        last = index == micro - 1
        wait = (
            contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()
        )
        with wait:
            loss_of(model, part.chunk(world)[rank], step, rank).backward()


def joined_backward(model, step, world, micro):
    for part in batch(step, 8 * micro, 8).chunk(micro):
        losses = [loss_of(model, x, step, rank) for rank, x in enumerate(part.chunk(world))]
        (sum(losses) / world).backward()


def is_equal_on_all_ranks(tensors):
    own = torch.cat([t.detach().reshape(-1).double() for t in tensors])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return all(torch.equal(own, other) for other in every)


def worst_difference(own, other):
    """Return the largest |difference| between two dicts of tensors with equal names."""
    assert set(own) == set(other)
    return max(float((own[name] - other[name]).abs().max()) for name in other)


class Traffic:
    """Count the collectives called from Python at each step; DDP calls its own from C++."""

    def __init__(self):
        self.calls, self.step = Counter(), 0
        for name in ("all_reduce", "all_gather", "broadcast"):
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name, function):
        def call(*args, **kwargs):
            self.calls[name, self.step] += 1
            return function(*args, **kwargs)

        return call


def run(make, traffic, wrap_first=False, micro=1, branched=False, compress=False, **options):
    rank, world = dist.get_rank(), dist.get_world_size()
    model = Branched() if branched else make_mlp(0)
    joined, joined_sparsity, joined_optimizer = attach(make, model=Branched() if branched else None)
    sparsity = make()
    ddp = DistributedDataParallel(model, **options) if wrap_first else None
    sparsity.apply(ddp if wrap_first else model)
    if compress:
        sparse.compress(model, min_sparsity=0)
    ddp = ddp or DistributedDataParallel(model, **options)
    optimizer = torch.optim.SGD(
        ddp.parameters(), 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True
    )
    sparsity.apply(optimizer)
    found = {"unequal": [], "masks": [], "worst": 0.0, "sent": {}, "buffers": 0}
    found["buffers"] = len(ddp.modules_buffers)
    events = []
    sparsity.register_mask_update_hook(lambda event: events.append((event.step, event.grown)))
    for step in range(STEPS):
        traffic.step = step + 1
        traffic.calls.clear()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        backward(ddp, step, rank, world, micro)
        optimizer.step()
        found["sent"][step + 1] = sum(traffic.calls.values())
        joined_optimizer.zero_grad(set_to_none=step % 2 == 0)
        joined_backward(joined, step, world, micro)
        joined_optimizer.step()
        masks = masks_of(sparsity)
        own, other = trained_by(model, sparsity), trained_by(joined, joined_sparsity)
        if not is_equal_on_all_ranks([*masks.values(), *own.values()]):
            found["unequal"].append(step + 1)
        expected = masks_of(joined_sparsity)
        if list(masks) != list(expected) or not all(
            map(torch.equal, masks.values(), expected.values())
        ):
            found["masks"].append(step + 1)
        if not compress:
            assert_pruned(sparsity, optimizer)
        found["worst"] = max(found["worst"], worst_difference(own, other))
    found["updates"] = sorted({step for step, _ in events})
    found["grown"] = sum(grown for _, grown in events)
    return found


def variants_of(name):
    """Return the variants in which an algorithm trains on this number of ranks."""
    variants = list(VARIANTS)
    if name not in IN_EVERY_VARIANT:
        variants = ["accumulation"] if name in CHOICES else list(WITH_EVERY_ALGORITHM)
    return [v for v in variants if dist.get_world_size() == 2 or v in WITH_FOUR]


def main():
    target = sys.argv[1]
    traffic = Traffic()
    found = {}
    for name, make in (ALGORITHMS | CHOICES).items():
        for variant in variants_of(name):
            found[f"{name} | {variant}"] = run(make, traffic, **VARIANTS[variant])
    for name, make in COMPRESSED.items():
        found[f"{name} | compressed"] = run(make, traffic, compress=True)
    if dist.get_rank() == 0:
        with open(target, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    as_rank(main)
