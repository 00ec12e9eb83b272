"""What must not happen on several ranks, and what is said instead; started by torchrun.

Each function below is a case: what it returns is compared, on every rank, by the test of its name.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from ranks import as_rank
from replicas_worker import is_equal_on_all_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from sparsewright.core.contest import make_contest
from sparsewright.core.errors import SparsewrightError
from sparsewright.core.masks import drop_and_grow
from sparsewright.core.uniform import uniform
from support import batch, make_mlp, masks_of

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def error_of(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except SparsewrightError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def rigl(**options):
    return sparse.RigL(0.5, sparsity=0.5, update=2, **options)


def attach(sparsity, model=None, wrap=True, lr=0.1):
    model = make_mlp() if model is None else model
    sparsity.apply(model)
    model = DistributedDataParallel(model) if wrap else model
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    sparsity.apply(optimizer)
    return model, optimizer


def step(model, optimizer, number):
    optimizer.zero_grad()
    model(batch(10 * number + dist.get_rank(), 4, 8)).pow(2).mean().backward()
    optimizer.step()


def mesh(*shape):
    return init_device_mesh("cpu", shape or (dist.get_world_size(),))


@case
def a_non_finite_gradient_on_one_rank_leaves_the_masks_of_all():
    """Only pruned positions of rank 1 see it: the weights stay finite everywhere."""
    sparsity = rigl()
    model, optimizer = attach(sparsity)
    step(model, optimizer, 0)
    before = masks_of(sparsity)
    optimizer.zero_grad()
    model(batch(5 + dist.get_rank(), 4, 8)).pow(2).mean().backward()
    if dist.get_rank() == 1:
        dense = sparsity._attachment.dense_gradients
        for parameter in sparsity.sparse_params.values():
            dense.get(parameter)[~parameter.mask] = torch.inf
    optimizer.step()
    same = all(map(torch.equal, before.values(), masks_of(sparsity).values()))
    for number in (2, 3):
        step(model, optimizer, number)
    moved = not all(map(torch.equal, before.values(), masks_of(sparsity).values()))
    equal = is_equal_on_all_ranks([*masks_of(sparsity).values(), *model.parameters()])
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    return [same, moved, equal, finite]


@case
def masks_that_differ_are_told_at_the_first_step():
    torch.manual_seed(dist.get_rank())
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model, optimizer = attach(sparse.Static(0.5, init_method="topk"), model)
    return error_of(step, model, optimizer, 0)


@case
def models_that_differ_are_told_at_the_first_step():
    model = make_mlp(hidden=16 + dist.get_rank())
    model, optimizer = attach(sparse.Static(0.5), model, wrap=False)
    return error_of(step, model, optimizer, 0)


@case
def ranks_without_a_process_group_train_alone():
    sparsity = rigl()
    sparsity.process_group = None
    model, optimizer = attach(sparsity, make_mlp(hidden=16 + dist.get_rank()), wrap=False)
    for number in range(6):
        step(model, optimizer, number)
    return [sparsity.step, [p.kept for p in sparsity.sparse_params.values()]]


@case
def a_group_of_some_ranks_agrees_among_itself():
    """Every rank in a group of its own: nothing to average with, nobody to agree with."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    sparsity = sparse.Group({"*": rigl()})
    sparsity.process_group = groups[dist.get_rank()]
    model, optimizer = attach(sparsity, make_mlp(hidden=16 + dist.get_rank()), wrap=False)
    for number in range(4):
        step(model, optimizer, number)
    return sparsity.step


@case
def a_compressed_weight_whose_level_moves_is_refused():
    sparsity = sparse.SET(sparsity={"type": "linear", "init": 0.5, "slope": 0.05}, update=2)
    model = make_mlp()
    sparsity.apply(model)
    sparse.compress(model, verbose=False)
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    step(model, optimizer, 0)
    before = [p.kept for p in sparsity.sparse_params.values()]
    error = error_of(step, model, optimizer, 1)
    return [error, before == [p.kept for p in sparsity.sparse_params.values()]]


@case
def a_wrapped_model_is_not_compressed():
    sparsity = rigl()
    model, _ = attach(sparsity)
    error = error_of(sparse.compress, model, verbose=False)
    return [error, [p.is_compressed for p in sparsity.sparse_params.values()]]


@case
def a_sharded_weight_is_not_compressed():
    model = fully_shard(make_mlp(), mesh=mesh())
    sparsity = sparse.configure({"algorithm": "rigl", "sparsity": 0.5, "storage": "compressed"})
    return error_of(sparsity.apply, model)


@case
def a_compressed_weight_is_not_sharded():
    model = make_mlp()
    sparsity = sparse.configure({"algorithm": "rigl", "sparsity": 0.5, "storage": "compressed"})
    sparsity.apply(model)
    fully_shard(model, mesh=mesh())
    return error_of(sparsity.apply, torch.optim.SGD(model.parameters(), 0.1))


@case
def a_weight_sharded_by_columns_is_refused():
    model = fully_shard(make_mlp(), mesh=mesh(), shard_placement_fn=lambda p: Shard(p.ndim - 1))
    return error_of(sparse.Static(0.5).apply, model)


@case
def an_update_of_shards_sends_counts_only():
    """No rank ever sends or receives a piece of a weight: 262,144 entries, thousands of counts."""
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    fully_shard(model, mesh=mesh())
    sparsity = sparse.RigL(0.3, sparsity=0.9, update=1)
    model, optimizer = attach(sparsity, model, wrap=False, lr=1e-3)
    sent = []
    for name in ("all_reduce", "all_gather", "broadcast", "all_gather_into_tensor"):
        setattr(dist, name, counted(sent, getattr(dist, name)))
    for number in range(2):
        optimizer.zero_grad()
        model(batch(number, 4, 512)).pow(2).mean().backward()
        sent.clear()
        optimizer.step()
    kept = [p.kept for p in sparsity.sparse_params.values()]
    return [max(sent) <= 2048, len(sent) < 20, kept]


def counted(sent, function):
    def call(tensor, *args, **kwargs):
        inputs = tensor if isinstance(tensor, list) else [tensor]
        sent.append(sum(each.numel() for each in inputs))
        return function(tensor, *args, **kwargs)

    return call


@case
def an_overflow_under_a_scaler_leaves_no_trace_on_shards():
    model = fully_shard(make_mlp(), mesh=mesh())
    sparsity = rigl()
    model, optimizer = attach(sparsity, model, wrap=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    steps = []
    for number in range(8):
        optimizer.zero_grad()
        x = batch(number, 4, 8) * (torch.inf if number in (1, 4) else 1)
        scaler.scale(model(x).pow(2).mean()).backward()
        before = [p.mask.to_local().clone() for p in sparsity.sparse_params.values()]
        scaler.step(optimizer)
        scaler.update()
        after = [p.mask.to_local() for p in sparsity.sparse_params.values()]
        steps.append([sparsity.step, all(map(torch.equal, before, after))])
    finite = all(bool(p.to_local().isfinite().all()) for p in model.parameters())
    return [finite, steps]


@case
def norms_of_sharded_gradients_are_those_of_the_whole():
    logged = []
    for model, wrap in ((fully_shard(make_mlp(), mesh=mesh()), False), (make_mlp(), True)):
        sparsity = rigl()
        model, optimizer = attach(sparsity, model, wrap=wrap)
        norms = []
        sparse.log_metrics(sparsity, lambda scalars, step, norms=norms: norms.append(scalars))
        for number in range(3):
            step(model, optimizer, number)
        logged.append([each["sparsity/grad_norm"] for each in norms])
    differences = [abs(a - b) for a, b in zip(*logged, strict=True)]
    return [len(differences), max(differences) < 1e-6, min(logged[0]) > 0]


SHAPES = [(1,), (7,), (2, 3), (6, 4), (13, 8), (12, 2, 3), (3, 50), (64, 64)]
SHAPERS = {
    "all": lambda shape: None,
    "in": lambda shape: sparse.utils.InputGroupScoreShaper(2),
    "out": lambda shape: sparse.utils.OutputGroupScoreShaper(3),
}


def random_contests():
    """Random weights, masks and scores with many ties, whole and sharded, on two kinds of mesh."""
    world = dist.get_world_size()
    meshes = [(mesh(), [Shard(0)]), (mesh(world // 2, 2), [Replicate(), Shard(0)])]
    meshes.append((mesh(), [Replicate()]))
    generator = torch.Generator().manual_seed(7)

    def draw(n):
        return int(torch.randint(n, (), generator=generator))

    for number in range(150):
        shape = SHAPES[draw(len(SHAPES))]
        kinds = ["all"]
        kinds += ["in"] if len(shape) > 1 and shape[1] % 2 == 0 else []
        kinds += ["out"] if shape[0] % 3 == 0 else []
        shaper = SHAPERS[kinds[draw(len(kinds))]](shape)
        dtype = (torch.float32, torch.float64, torch.float16, torch.bfloat16)[draw(4)]
        spread = 1 + draw(40)
        weight = (torch.randint(-spread, spread + 1, shape, generator=generator) / 8).to(dtype)
        score = (torch.randn(shape, generator=generator) * 4).round().to(dtype)
        mask = torch.rand(shape, generator=generator) < (0.0, 0.5, 1.0)[draw(3)]
        level, fraction = draw(11) / 10, draw(11) / 10
        on, placements = meshes[draw(3)]
        spread_out = [
            distribute_tensor(t, on, placements, src_data_rank=None) for t in (weight, mask, score)
        ]
        yield number, (weight, mask, score), spread_out, level, fraction, shaper


@case
def contests_over_shards_equal_those_over_the_whole():
    wrong, marked = [], 0
    for number, whole, spread, level, fraction, shaper in random_contests():
        (weight, mask, score), (weights, masks, scores) = whole, spread
        pairs = [
            (drop_and_grow(w, m, level, fraction, s, shaper), w, m, s)
            for w, m, s in ((weight, mask, score), (weights, masks, scores))
        ]
        topk = [sparse.utils.make_mask_topk_sparsity(s, level, shaper) for s in (score, scores)]
        drop = [
            sparse.utils.make_mask_drop_minimum(w, m, fraction, shaper)[0]
            for w, m in ((weight, mask), (weights, masks))
        ]
        grow = [
            sparse.utils.make_mask_grow_maximum(s, m, level, None, shaper)
            for s, m in ((score, mask), (scores, masks))
        ]
        made = [sparse.init.checkerboard(w, level, shaper) for w in (weight, weights)]
        noise = [uniform(w, torch.Generator().manual_seed(number)) for w in (weight, weights)]
        for one, many in ([p[0] for p in pairs], topk, drop, grow, made, noise):
            if not torch.equal(one, many.full_tensor()):
                wrong.append(number)
        marked += int(pairs[0][0].sum())
    return [wrong, marked > 1000]


@case
def nan_on_one_rank_is_told_to_all():
    score = torch.ones(8, 4)
    score[7, 3] = torch.nan
    spread = distribute_tensor(score, mesh(), [Shard(0)], src_data_rank=None)
    contest = make_contest(spread, None)
    return error_of(contest.select, contest.shape(spread), [3])


def main():
    found = {name: function() for name, function in CASES.items()}
    with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    as_rank(main)
