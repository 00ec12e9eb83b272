"""Save a replicated run, and resume it on another number of ranks; started by torchrun.

resume_worker.py save FOLDER
resume_worker.py load FOLDER FOUND.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from helpers.cases import ALGORITHMS, attach, loaded, saved
from helpers.distributed.choices import CHOICES
from helpers.distributed.ranks import as_rank
from helpers.distributed.replicas_worker import (
    COMPRESSED,
    backward,
    is_equal_on_all_ranks,
    joined_backward,
    worst_difference,
)
from helpers.support import make_mlp, masks_of, trained_by

STOP, END = 9, 18
CASES = [(name, make, False) for name, make in (ALGORITHMS | CHOICES).items()]
CASES += [(f"{name}, compressed", make, True) for name, make in COMPRESSED.items()]


def make_optimizer(params):
    return torch.optim.AdamW(params, 0.01)


def prepare(make, compress, seed=0):
    model, sparsity = make_mlp(seed), make()
    sparsity.apply(model)
    if compress:
        sparse.compress(model, verbose=False)
    trained = DistributedDataParallel(model) if dist.get_world_size() > 1 else model
    optimizer = make_optimizer(trained.parameters())
    sparsity.apply(optimizer)
    return trained, model, sparsity, optimizer


def train(trained, optimizer, start, stop):
    for step in range(start, stop):
        optimizer.zero_grad()
        backward(trained, step, dist.get_rank(), dist.get_world_size(), 1)
        optimizer.step()


def save(folder):
    for name, make, compress in CASES:
        trained, model, sparsity, optimizer = prepare(make, compress)
        train(trained, optimizer, 0, STOP)
        if dist.get_rank() == 0:
            Path(f"{folder}/{name}.pt").write_bytes(saved(model, optimizer, sparsity))


def load(folder, target):
    found = {}
    for name, make, compress in CASES:
        trained, model, sparsity, optimizer = prepare(make, compress, seed=3)
        states = loaded(Path(f"{folder}/{name}.pt").read_bytes())
        for each, state in zip((model, optimizer, sparsity), states, strict=True):
            each.load_state_dict(state)
        train(trained, optimizer, STOP, END)
        joined, joined_sparsity, joined_optimizer = attach(make, make_optimizer, make_mlp())
        for step in range(END):
            joined_optimizer.zero_grad()
            joined_backward(joined, step, dist.get_world_size(), 1)
            joined_optimizer.step()
        masks, expected = masks_of(sparsity), masks_of(joined_sparsity)
        own, other = trained_by(model, sparsity), trained_by(joined, joined_sparsity)
        found[name] = {
            "masks": all(map(torch.equal, masks.values(), expected.values())),
            "worst": worst_difference(own, other),
            "ranks": is_equal_on_all_ranks([*masks.values(), *own.values()]),
        }
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found))


def main():
    {"save": save, "load": load}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    as_rank(main)
