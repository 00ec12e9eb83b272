"""Compare structures on sharded tensors with the same tensors in one process; run by torchrun.

structures_worker.py FOUND.json
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import sparsewright as sparse
from helpers.distributed.ranks import as_rank
from helpers.support import batch
from sparsewright.core.structure import Structure
from sparsewright.errors import ScoreError, ShapeError
from sparsewright.structures import NM, Block, Channel, FanIn, Groups

STRUCTURES = [
    *(NM(2, 4), Groups(inputs=2), Groups(outputs=3)),
    *(NM(2, 4, transposable=True), FanIn(), FanIn(0.4)),
    *(Block((1, 2)), Block((3, 2), "max"), Block((2, 3), "l2")),
    *(Channel(0), Channel(1), Channel(1, 2), Channel(1, math.inf), Channel(0, 0.5)),
]
SHAPES = [(12, 12, 2), (24, 12), (0, 12)]
LEVELS = [0.5, 0.75]


def cases():
    """Yield a name, a structure and a shape for each case."""
    for structure in STRUCTURES:
        for dims in ((0, 1), (1, 0)):
            for shape in SHAPES:
                yield f"{structure!r} {dims} {shape}", structure.with_dims(*dims), shape


def results(structure: Structure, weight, growth, ragged):
    """Return masks of all operations of a structure, of tensors that are sharded or whole."""
    level = 0.5 if structure.has_one_level else LEVELS[int(weight.numel()) % 2]
    mask = structure.topk(weight, level, magnitude=True)
    kept, counts = structure.drop(weight, mask, 0.3, magnitude=True)
    grown = structure.grow(growth, kept, level, magnitude=True)
    new = structure.drop_and_grow(weight, mask, level, 0.4, growth)
    stays, _ = structure.drop(weight, ragged, 0.4, magnitude=True)
    return [mask, kept, grown, new, stays], counts


def compare(structure, shape, mesh):
    """Return "equal", the error that all ranks raise, or what differs."""
    generator = torch.Generator().manual_seed(len(shape))
    weight, growth = torch.randn(2, *shape, generator=generator)
    ragged = torch.rand(shape, generator=generator) < 0.5
    whole, _ = results(structure, weight, growth, ragged)
    sharded = [distribute_tensor(t, mesh, [Shard(0)]) for t in (weight, growth, ragged)]
    try:
        own, _ = results(structure, *sharded)
    except ShapeError as error:
        found = str(error)
    else:
        parts = [distribute_tensor(mask, mesh, [Shard(0)]).to_local() for mask in whole]
        equal = [torch.equal(o.to_local(), part) for o, part in zip(own, parts, strict=True)]
        found = "equal" if all(equal) else f"differs in {equal}"
    return agreed(found)


def agreed(text):
    """Return a text that all ranks must agree on."""
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, text)
    return text if len(set(every)) == 1 else f"ranks disagree: {every}"


def nan_on_one_rank(mesh):
    """Return the error that all ranks raise if the NaN lies on the last one."""
    weight = torch.ones(12, 12)
    weight[-1, 3] = math.nan
    found = {}
    for structure in (Block((1, 2)), Channel(0), Channel(1), Channel(1, 2), Channel(1, math.inf)):
        try:
            structure.topk(distribute_tensor(weight, mesh, [Shard(0)]), 0.5)
            found[repr(structure)] = agreed("no error")
        except ScoreError as error:
            found[repr(structure)] = agreed(str(error))
    return found


def refused_by_apply(mesh):
    """Return the errors of `apply` on models whose shards cut blocks, and what is left on them."""
    blocks, found = {"type": "block", "shape": [4, 4]}, []
    rising = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 2, "end": 9}
    for sparsity in (
        sparse.Static(0.5, structure=blocks),
        sparse.GMP(rising, update={"freq": 2, "start": 2}, structure=blocks),  # starts dense
    ):
        model = nn.Sequential(nn.Linear(8, 12))
        fully_shard(model, mesh=mesh)
        try:
            sparsity.apply(model)
            found.append(agreed("no error"))
        except ShapeError as error:
            found.append(agreed(f"{error} | {list(dict(model.named_buffers()))}"))
    return found


def train_transposed(mesh):
    """Train a sharded transposed convolution and return what differs from one process."""
    found = {}
    for name, structure in {
        "2:4": "2:4",
        "blocks": {"type": "block", "shape": [4, 2]},
        "outputs": {"type": "channel", "axis": 0},
    }.items():
        masks = []
        for is_sharded in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.ConvTranspose1d(4 * dist.get_world_size(), 8, 3))
            if is_sharded:
                fully_shard(model, mesh=mesh)
            sparsity = sparse.RigL(0.5, sparsity=0.5, update=1, structure=structure)
            sparsity.apply(model)
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            sparsity.apply(optimizer)
            for step in range(4):
                optimizer.zero_grad()
                out = model(batch(step, 3, 4 * dist.get_world_size(), 5))
                (out - batch(50 + step, *out.shape)).pow(2).sum().backward()
                optimizer.step()
            (parameter,) = sparsity.sparse_params.values()
            masks.append(parameter.mask.full_tensor() if is_sharded else parameter.mask)
        found[name] = agreed("equal" if torch.equal(*masks) else "differs")
    return found


def main():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = {name: compare(structure, shape, mesh) for name, structure, shape in cases()}
    report = {
        "selections": found,
        "nan": nan_on_one_rank(mesh),
        "refused": refused_by_apply(mesh),
        "trained": train_transposed(mesh),
    }
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    as_rank(main)
