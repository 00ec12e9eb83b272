"""Compare combinations of all choices on several ranks with one process; run by torchrun.

product_worker.py FOUND.json
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from helpers.distributed.ranks import as_rank
from helpers.distributed.replicas_worker import is_equal_on_all_ranks
from helpers.product import SAVED, STEPS, Combination, Net, assert_contract, attach, loss_of, spread
from helpers.support import assert_same
from sparsewright.errors import SparsewrightError
from sparsewright.kernels.sharded import whole


def prepare(combination, how, states=()):
    """Return a spread model, its forward pass, its algorithm and its optimizer.

    States are loaded before the model is wrapped: the number of values of a compressed weight
    cannot change in a wrapped model.
    """
    model = Net(seed=1 if states else 0)
    if how == "shards":
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    model, sparsity, optimizer = attach(combination.config, model)
    for each, state in zip((model, optimizer, sparsity), states, strict=bool(states)):
        each.load_state_dict(state)
    forward = DistributedDataParallel(model) if how == "replicas" else model
    return model, forward, sparsity, optimizer


def train_step(forward, optimizer, step, precision):
    """Train on this rank's part of the batch."""
    optimizer.zero_grad()
    loss_of(forward, step, precision, dist.get_rank(), dist.get_world_size()).backward()
    optimizer.step()


def joined_step(model, optimizer, step, precision):
    """Train one process on the parts of all ranks."""
    world = dist.get_world_size()
    optimizer.zero_grad()
    losses = [loss_of(model, step, precision, rank, world) for rank in range(world)]
    (sum(losses) / world).backward()
    optimizer.step()


def compare(combination, how):
    """Assert the contract, equal masks and bit-equal resuming."""
    single, expected, single_optimizer = attach(combination.config)
    model, forward, sparsity, optimizer = prepare(combination, how)
    for step in range(STEPS):
        train_step(forward, optimizer, step, combination.precision)
        joined_step(single, single_optimizer, step, combination.precision)
        assert_contract(combination, sparsity, optimizer)
        masks = [whole(p.mask) for p in sparsity.sparse_params.values()]
        assert is_equal_on_all_ranks(masks)
        assert_same(masks, [p.mask for p in expected.sparse_params.values()])
        if sparsity.step == SAVED:
            data = copy.deepcopy([each.state_dict() for each in (model, optimizer, sparsity)])
    again, forward, resumed, other = prepare(combination, how, data)
    for step in range(SAVED, STEPS):
        train_step(forward, other, step, combination.precision)
    for each, first in ((again, model), (other, optimizer), (resumed, sparsity)):
        assert_same(each.state_dict(), first.state_dict())


def outcome(combination, how):
    """Return "equal", the error that all ranks raise, or what differs."""
    try:
        compare(combination, how)
        found = "equal"
    except SparsewrightError as error:
        found = str(error)
    except AssertionError:
        found = f"rank {dist.get_rank()}: {traceback.format_exc()}"
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, found)
    return found if len(set(every)) == 1 else "\n".join(every)


def main():
    torch.set_num_threads(1)
    found = {"-".join(each): outcome(Combination(*each[:-1]), each[-1]) for each in spread()}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    as_rank(main)
