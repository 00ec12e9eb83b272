"""Compare fully sharded training with one process on the joined batch; started by torchrun.

shards_worker.py train FOUND.json
shards_worker.py save FOLDER
shards_worker.py load FOLDER FOUND.json    on any number of ranks; a single rank does not shard
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

import sparsewright as sparse
from helpers.cases import ALGORITHMS, attach
from helpers.distributed.choices import CHOICES
from helpers.distributed.ranks import as_rank
from helpers.support import batch, trained_by

STEPS = 16
STEPS_SAVED, STEPS_AFTER = 7, 6

CASES = (
    ALGORITHMS
    | CHOICES
    | {
        "rigl in output groups": lambda: sparse.RigL(balance_out_groups=3, sparsity=0.6, update=2),
        "gmp from topk": lambda: sparse.GMP(
            {"type": "linear", "init": 0.2, "slope": 0.01}, update={"stop": 40}, init_method="topk"
        ),
        "static checkerboard": lambda: sparse.Static(0.7, init_method="checkerboard"),
    }
)
VARIANTS = {
    "plain": {},
    "applied before sharding": {"shard_last": True},
    "accumulation, one reduction": {"micro": 2, "sync": False},
    "accumulation, two reductions": {"micro": 2},
    "stays gathered": {"reshard": False},
    "hybrid": {"hybrid": True},
}
IN_EVERY_VARIANT = ("gmp", "rigl", "rigl in output groups", "group of ste and rigl")
WITH_TWO_REDUCTIONS = ("rigl, shadowed",)
WITH_TWO = [name for name in VARIANTS if name != "hybrid"]
WITH_FOUR = ["plain", "accumulation, two reductions", "hybrid"]


def make_model(seed=0):
    """Build a convolution and linear layers with rows that 2 or 4 ranks cannot share equally."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv1d(2, 6, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(36, 30),
            nn.Tanh(),
            nn.Linear(30, 3),
        )


def shard(model, hybrid=False, reshard=True):
    world = dist.get_world_size()
    shape, names = ((2, world // 2), ("copies", "shards")) if hybrid else ((world,), ("shards",))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    for layer in (model[3], model):
        fully_shard(layer, mesh=mesh)
        layer.set_reshard_after_backward(reshard)
    return model


def make_optimizer(params):
    # Gradients that should cancel differ in their last bits, depending on the order of summation.
    # With a small eps, Adam would turn them into steps of either sign.
    return torch.optim.AdamW(params, 0.01, eps=1e-3)


def inputs(step, micro):
    return batch(step, 8 * micro, 16).reshape(8 * micro, 2, 8).chunk(micro)


def backward(model, step, micro=1, sync=True):
    for index, part in enumerate(inputs(step, micro)):
        model.set_requires_gradient_sync(sync or index == micro - 1)
        own = part.chunk(dist.get_world_size())[dist.get_rank()]
        model(own).pow(2).mean().backward()


def joined_backward(model, step, micro=1):
    for part in inputs(step, micro):
        model(part).pow(2).mean().backward()


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def worst_difference(own, other):
    """Return the largest |difference| between two dicts of tensors, sharded or whole."""
    assert set(own) == set(other)
    return max(float((whole(own[name]) - other[name]).abs().max()) for name in other)


def masks_of(sparsity):
    return {name: whole(p.mask).clone() for name, p in sparsity.sparse_params.items()}


def are_shards_of(sparsity, expected):
    """Return whether names are equal and every rank has its part of the expected masks."""
    own = sparsity.sparse_params
    equal = list(own) == list(expected)
    for name, parameter in own.items() if equal else ():
        part = distribute_tensor(
            expected[name].mask,
            parameter.mask.device_mesh,
            parameter.mask.placements,
            src_data_rank=None,
        )
        equal &= torch.equal(parameter.mask.to_local(), part.to_local())
    verdict = torch.tensor(int(equal))
    dist.all_reduce(verdict, dist.ReduceOp.MIN)
    return bool(verdict)


def is_pruned(sparsity, optimizer):
    for parameter in sparsity.sparse_params.values():
        pruned = ~parameter.mask.to_local()
        tensors = [parameter.param.detach()]
        if parameter.storage.name != "shadowed":
            tensors += [parameter.param.grad, optimizer.state[parameter.param]["exp_avg"]]
        for tensor in tensors:
            if tensor.to_local()[pruned].any():
                return False
    return True


def run(make, micro=1, sync=True, shard_last=False, **sharding):
    joined, joined_sparsity, joined_optimizer = attach(make, make_optimizer, make_model())
    model, sparsity = make_model(), make()
    if not shard_last:
        shard(model, **sharding)
    sparsity.apply(model)
    if shard_last:
        shard(model, **sharding)
    optimizer = make_optimizer(model.parameters())
    sparsity.apply(optimizer)
    found = {"masks": [], "worst": 0.0, "unpruned": [], "whole": [], "kept": [], "grown": 0}
    events, joined_events = [], []
    sparsity.register_mask_update_hook(events.append)
    joined_sparsity.register_mask_update_hook(joined_events.append)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        backward(model, step, micro, sync)
        optimizer.step()
        joined_optimizer.zero_grad(set_to_none=step % 2 == 0)
        joined_backward(joined, step, micro)
        joined_optimizer.step()
        expected = joined_sparsity.sparse_params
        if not are_shards_of(sparsity, expected):
            found["masks"].append(step + 1)
        if step % 5 == 0 or step == STEPS - 1:
            own, other = trained_by(model, sparsity), trained_by(joined, joined_sparsity)
            found["worst"] = max(found["worst"], worst_difference(own, other))
        if not is_pruned(sparsity, optimizer):
            found["unpruned"].append(step + 1)
        held = model.state_dict() | trained_by(model, sparsity)
        if not all(isinstance(tensor, DTensor) for tensor in held.values()):
            found["whole"].append(step + 1)
        if [p.kept for p in sparsity.sparse_params.values()] != [
            int(p.mask.sum()) for p in expected.values()
        ]:
            found["kept"].append(step + 1)
    found["grown"] = sum(event.grown for event in events)
    found["events equal"] = events == joined_events
    return found


def variants_of(name):
    """Return the variants in which an algorithm trains on this number of ranks."""
    if name in IN_EVERY_VARIANT:
        return WITH_TWO if dist.get_world_size() == 2 else WITH_FOUR
    return ["plain", "accumulation, two reductions"] if name in WITH_TWO_REDUCTIONS else ["plain"]


def train(target):
    found = {}
    for name, make in CASES.items():
        for variant in variants_of(name):
            found[f"{name} | {variant}"] = run(make, **VARIANTS[variant])
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found))


def attach_sharded(make):
    model, sparsity = make_model(), make()
    if dist.get_world_size() > 1:
        shard(model)
    sparsity.apply(model)
    optimizer = make_optimizer(model.parameters())
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


def state_of(model, optimizer):
    weights, state = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": state}


def save(folder):
    for name, make in CASES.items():
        model, sparsity, optimizer = attach_sharded(make)
        for step in range(STEPS_SAVED):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
        state = state_of(model, optimizer) | {"sparsity": sparsity}
        dcp.save(state, checkpoint_id=f"{folder}/{name}")


def load(folder, target):
    found = {}
    for name, make in CASES.items():
        model, sparsity, optimizer = attach_sharded(make)
        state = state_of(model, optimizer) | {"sparsity": sparsity}
        dcp.load(state, checkpoint_id=f"{folder}/{name}")
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        joined, joined_sparsity, joined_optimizer = attach(make, make_optimizer, make_model())
        for step in range(STEPS_SAVED):
            joined_optimizer.zero_grad()
            joined_backward(joined, step)
            joined_optimizer.step()
        equal = []
        for step in range(STEPS_SAVED, STEPS_SAVED + STEPS_AFTER + 1):
            masks, expected = masks_of(sparsity), masks_of(joined_sparsity)
            kept = [p.kept for p in sparsity.sparse_params.values()]
            counts = [int(mask.sum()) for mask in expected.values()]
            equal.append(all(map(torch.equal, masks.values(), expected.values())))
            equal.append(kept == counts)
            for each, each_optimizer, run_backward in (
                (model, optimizer, backward if dist.get_world_size() > 1 else joined_backward),
                (joined, joined_optimizer, joined_backward),
            ):
                each_optimizer.zero_grad()
                run_backward(each, step)
                each_optimizer.step()
        own, other = trained_by(model, sparsity), trained_by(joined, joined_sparsity)
        found[name] = {"equal": equal, "worst": worst_difference(own, other)}
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found))


def main():
    {"train": train, "save": save, "load": load}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    as_rank(main)
