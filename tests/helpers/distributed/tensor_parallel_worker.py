"""Compare tensor-parallel models, sparsified before or after, with one process; for torchrun.

tensor_parallel_worker.py FOUND.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import sparsewright as sparse
from helpers.distributed.ranks import as_rank
from helpers.support import batch, make_mlp, trained_by

STEPS = 6
CUBIC = {"type": "cubic", "init": 0.2, "final": 0.8, "begin": 0, "end": STEPS}
ALGORITHMS = {
    "static": lambda: sparse.Static(0.6, init_method="topk"),
    "gmp": lambda: sparse.GMP(CUBIC, update=2),
    "rigl": lambda: sparse.RigL(0.3, sparsity=0.75, update=2),
    "ste": lambda: sparse.STE(0.6, update=2),
}


def columns(model, mesh):
    """Parallelize the first layer by its output features."""
    parallelize_module(model, mesh, {"0": ColwiseParallel(output_layouts=Replicate())})


def replicated(model, mesh):
    """Make every parameter and buffer a replicated DTensor."""
    distribute_module(model, mesh)


def rows(model, mesh):
    """Parallelize the last layer by its input features, which masks do not support."""
    parallelize_module(model, mesh, {"2": RowwiseParallel()})


PLANS = {"columns": columns, "replicated": replicated}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def run(make, parallelize=None, when="before", partial=False):
    """Train; return whole masks, whole weights and the number of live connections, by name."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model, sparsity = make_mlp(0), make()
    if parallelize is not None and when == "before":
        parallelize(model, mesh)
    sparsity.apply(model)
    if parallelize is not None and when == "after":
        parallelize(model, mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        x = batch(step, 5, 8)
        if isinstance(model[2].weight, DTensor):
            x = distribute_tensor(x, mesh, [Replicate()])
        model(x).pow(2).mean().backward()
        if partial:
            for param in model.parameters():
                make_partial(param, mesh)
        optimizer.step()
    masks = {name: whole(p.mask) for name, p in sparsity.sparse_params.items()}
    weights = {name: whole(value) for name, value in trained_by(model, sparsity).items()}
    return masks, weights, {name: p.kept for name, p in sparsity.sparse_params.items()}


def make_partial(param, mesh):
    """Replace a DTensor's gradient by a partial one: ranks hold summands of the same value."""
    if isinstance(param.data, DTensor):
        part = whole(param.grad) / dist.get_world_size()
        param.grad = DTensor.from_local(part, mesh, [Partial()])


def compare(make, **choices):
    """Return the differences from a run of one process."""
    masks, weights, kept = run(make, **choices)
    own_masks, own_weights, own_kept = run(make)
    return {
        "masks": [name for name, mask in masks.items() if not torch.equal(mask, own_masks[name])],
        "worst": max(float((weights[n] - own_weights[n]).abs().max()) for n in own_weights),
        "kept": kept != own_kept,
    }


def refusal(when):
    """Return the error for weights sharded by input features; "" if no error was raised."""
    try:
        run(ALGORITHMS["rigl"], rows, when)
    except sparse.errors.AttachError as error:
        return str(error)
    return ""


def main():
    found = {}
    for name, make in ALGORITHMS.items():
        for plan, parallelize in PLANS.items():
            for when in ("before", "after"):
                found[f"{name} | {plan} | {when}"] = compare(
                    make, parallelize=parallelize, when=when
                )
    found["rigl | replicated | partial gradients"] = compare(
        ALGORITHMS["rigl"], parallelize=replicated, partial=True
    )
    found["rows"] = {when: refusal(when) for when in ("before", "after")}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    as_rank(main)
