"""Cases of shards that must agree between ranks, and the errors if they do not."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import sparsewright as sparse
from helpers.distributed.agreement import (
    after_a_non_finite_gradient_on_rank_1,
    attach,
    error_of,
    local_masks_of,
    make_cases,
    mesh,
    rigl,
    step,
)
from helpers.support import batch, make_mlp
from sparsewright.core.masks import drop_and_grow
from sparsewright.core.random_scores import uniform
from sparsewright.core.rows import Unstructured
from sparsewright.core.selection import make_selection
from sparsewright.kernels.sharded import local
from sparsewright.structures import NM, FanIn

CASES, case = make_cases()


@case
def a_non_finite_gradient_in_one_shard_leaves_the_masks_of_all():
    model = fully_shard(make_mlp(), mesh=mesh())
    return after_a_non_finite_gradient_on_rank_1(model, wrap=False)[0]


def dense_gradients(model, numbers, clear):
    """Return the dense gradients after several backward passes, with `clear` before each."""
    sparsity = sparse.RigL(0.5, sparsity=0.5, update=1)
    model, optimizer = attach(sparsity, model, wrap=False)
    for number in numbers:
        clear(optimizer)
        model(batch(10 * number + dist.get_rank(), 4, 8)).pow(2).mean().backward()
    taps = map(sparsity.session.tap_of, sparsity.sparse_params.values())
    return [local(tap.gradient().dense()) for tap in taps]


@case
def a_cleared_gradient_of_shards_is_not_summed():
    found = [
        dense_gradients(make(), numbers, lambda optimizer, to=to_none: optimizer.zero_grad(to))
        for make in MAKERS
        for numbers, to_none in (([5], True), ([3, 5], True), ([3, 5], False), ([3, 4, 5], False))
    ]
    equal = [
        all(map(torch.equal, each, found[number // 4 * 4])) for number, each in enumerate(found)
    ]
    return [equal, all(bool(g.count_nonzero()) for each in found for g in each)]


@case
def a_gradient_of_shards_that_is_not_cleared_is_summed():
    """Accumulate shards in FSDP2 and DTensors in autograd."""
    found = []
    for make in MAKERS:
        each = [dense_gradients(make(), passes, lambda o: None) for passes in ([1], [2], [1, 2])]
        found.append(all(torch.allclose(a + b, both) for a, b, both in zip(*each, strict=True)))
    return found


class Scaled(nn.Module):
    """A layer with a DTensor weight, whose gradient autograd accumulates without FSDP2."""

    def __init__(self):
        super().__init__()
        weight = batch(1, 16, 8)
        self.weight = nn.Parameter(distribute_tensor(weight, mesh(), [Shard(0)]))

    def forward(self, x):
        return (self.weight + 1) * x.sum().item()


MAKERS = (lambda: fully_shard(make_mlp(), mesh=mesh()), Scaled)


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
    """Update a weight of 262,144 entries: ranks exchange thousands of counts, but no entries."""
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    fully_shard(model, mesh=mesh())
    sparsity = sparse.RigL(0.3, sparsity=0.9, update=1)
    sent = sent_by_update(sparsity, model, 1e-3)
    kept = [p.kept for p in sparsity.sparse_params.values()]
    return [max(sent) <= 2048, len(sent) < 20, kept]


def sent_by_update(sparsity, model, lr):
    """Train two steps; return the number of entries of each collective of the second update."""
    model, optimizer = attach(sparsity, model, wrap=False, lr=lr)
    sent = []
    for name in ("all_reduce", "all_gather", "broadcast", "all_gather_into_tensor"):
        setattr(dist, name, counted(sent, getattr(dist, name)))
    for number in range(2):
        optimizer.zero_grad()
        model(batch(number, 4, 512)).pow(2).mean().backward()
        sent.clear()
        optimizer.step()
    return sent


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
        before = local_masks_of(sparsity)
        scaler.step(optimizer)
        scaler.update()
        same = all(map(torch.equal, before, local_masks_of(sparsity)))
        steps.append([sparsity.step, same])
    finite = all(bool(p.to_local().isfinite().all()) for p in model.parameters())
    return [finite, steps]


@case
def masks_of_a_copied_sharded_model_are_taken_over_and_counted():
    model = make_mlp()
    for layer in (model[0], model[2]):
        layer.weight = nn.Parameter(distribute_tensor(layer.weight, mesh(), [Shard(0)]))
        layer.bias = nn.Parameter(distribute_tensor(layer.bias, mesh(), [Shard(0)]))
    attach(sparse.Static(0.75), model, wrap=False)
    sparsity = sparse.RigL(sparsity=0.75, update=2)
    sparsity.apply(copy.deepcopy(model))
    return [p.kept for p in sparsity.sparse_params.values()]


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


SHAPES = [(1,), (7,), (2, 3), (6, 4), (13, 8), (12, 2, 3), (3, 50), (64, 64), (16, 8, 2), (4, 8)]
SHAPERS = {
    "all": lambda shape: None,
    "in": lambda shape: sparse.utils.InputGroupScoreShaper(2),
    "out": lambda shape: sparse.utils.OutputGroupScoreShaper(3),
    "2:4": lambda shape: NM(2, 4),
    "tiles": lambda shape: NM(2, 4, transposable=True),
    "fan-in": lambda shape: FanIn(),
    "ablation": lambda shape: FanIn(0.5),
    "ablation, inputs first": lambda shape: FanIn(0.5).with_dims(1, 0),
}


def random_contests():
    """Yield random weights, masks and scores with many ties, whole and sharded on two meshes."""
    world = dist.get_world_size()
    meshes = [(mesh(), [Shard(0)]), (mesh(world // 2, 2), [Replicate(), Shard(0)])]
    meshes.append((mesh(), [Replicate()]))
    generator = torch.Generator().manual_seed(7)

    def draw(n):
        return int(torch.randint(n, (), generator=generator))

    for number in range(300):
        shape = SHAPES[draw(len(SHAPES))]
        kinds = ["all"]
        kinds += ["in"] if len(shape) > 1 and shape[1] % 2 == 0 else []
        kinds += ["out"] if shape[0] % 3 == 0 else []
        kinds += ["2:4"] if len(shape) > 1 and shape[1] % 4 == 0 else []
        fits = len(shape) > 1 and shape[1] % 4 == 0 and shape[0] % (4 * world) == 0
        kinds += ["tiles"] * 3 if fits else []
        kinds += [kind for kind in SHAPERS if "a" in kind[:3] and len(shape) > 1 and kind != "all"]
        shaper = SHAPERS[kinds[draw(len(kinds))]](shape)
        dtype = (torch.float32, torch.float64, torch.float16, torch.bfloat16)[draw(4)]
        spread = 1 + draw(40)
        weight = (torch.randint(-spread, spread + 1, shape, generator=generator) / 8).to(dtype)
        score = (torch.randn(shape, generator=generator) * 4).round().to(dtype)
        mask = torch.rand(shape, generator=generator) < (0.0, 0.5, 1.0)[draw(3)]
        level, fraction = draw(11) / 10, draw(11) / 10
        level = min(level, 0.5) if isinstance(shaper, NM) else level
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


class Flat(sparse.utils.ScoreShaper):
    def __call__(self, tensor):
        return tensor.reshape(1, -1), lambda rows: rows.reshape(tensor.shape)


@case
def a_shaper_of_the_users_own_does_not_know_shards():
    spread = distribute_tensor(torch.ones(8, 4), mesh(), [Shard(0)], src_data_rank=None)
    return error_of(sparse.utils.make_mask_topk_sparsity, spread, 0.5, Flat())


@case
def nan_in_a_group_on_one_rank_is_told_to_all():
    score = torch.ones(8, 4)
    score[7, 3] = torch.nan
    spread = distribute_tensor(score, mesh(), [Shard(0)], src_data_rank=None)
    return error_of(sparse.utils.make_mask_topk_sparsity, spread, 0.5, NM(2, 4))


@case
def nan_in_a_tile_on_one_rank_is_told_to_all():
    score = torch.ones(8, 4)
    score[7, 3] = torch.nan
    spread = distribute_tensor(score, mesh(), [Shard(0)], src_data_rank=None)
    tiles = NM(2, 4, transposable=True)
    return error_of(sparse.utils.make_mask_topk_sparsity, spread, 0.5, tiles)


@case
def tiles_on_two_ranks_are_told_to_all():
    """Cut through tiles of 12 rows; of 4 rows, one rank has all."""
    found = []
    for rows in (12, 4):
        spread = distribute_tensor(torch.ones(rows, 4), mesh(), [Shard(0)], src_data_rank=None)
        tiles = NM(2, 4, transposable=True)
        found.append(error_of(sparse.utils.make_mask_topk_sparsity, spread, 0.5, tiles))
    return found


@case
def tiles_of_a_sharded_model_are_valid_after_every_update():
    model = fully_shard(make_mlp(outputs=8), mesh=mesh())
    tiles = NM(2, 4, transposable=True)
    model, optimizer = attach(sparse.RigL(0.4, update=1, structure=tiles), model, wrap=False)
    seen = []
    for number in range(4):
        step(model, optimizer, number)
        seen.append(model[0].weight_mask.full_tensor())
    are_valid = [
        bool((NM(2, 4).pool(side).sum(1) == 2).all()) for mask in seen for side in (mask, mask.T)
    ]
    return [all(are_valid), not torch.equal(seen[0], seen[-1])]


@case
def an_update_with_ablation_sends_counts_only():
    """Update a weight of 262,144 entries: ranks exchange no entries and no list of neurons."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    with torch.no_grad():
        model[0].weight[:200] *= 1e-3
    fully_shard(model, mesh=mesh())
    sparsity = sparse.RigL(0.3, sparsity=0.5, update=1, structure=FanIn(0.3), init_method="topk")
    sent = sent_by_update(sparsity, model, 1e-5)
    (mask,) = (p.mask.full_tensor() for p in sparsity.sparse_params.values())
    counts = set(mask.sum(1).tolist()) - {0}
    active = int(mask.any(1).sum())
    return [max(sent) <= 2048, counts == {131072 // active}, 257 <= active < 512]


@case
def nan_on_one_rank_is_told_to_all():
    score = torch.ones(8, 4)
    score[7, 3] = torch.nan
    spread = distribute_tensor(score, mesh(), [Shard(0)], src_data_rank=None)
    return error_of(make_selection(Unstructured(), spread).select, spread, 3)
