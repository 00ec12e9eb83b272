"""Cases of scores before training that several ranks compute or use."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from helpers.distributed.agreement import attach, error_of, make_cases, mesh, step
from helpers.distributed.replicas_worker import is_equal_on_all_ranks
from helpers.scored import squares
from helpers.support import batch, make_mlp, masks_of
from sparsewright.calibration import force, grasp, snip, synflow
from sparsewright.kernels.sharded import whole
from sparsewright.structures import Block, Channel

CASES, case = make_cases()

METHODS = (
    snip,
    grasp,
    lambda *args: force(*args, rounds=3, sparsity=0.8),
    lambda model, loss_fn, data: synflow(model, data[0], rounds=3, sparsity=0.8),
)


@case
def scores_of_a_wrapped_model_are_those_of_one_process_on_all_batches():
    every = [[batch(10 * rank + number, 4, 8) for number in range(2)] for rank in range(2)]
    plain, wrapped, found = make_mlp(), DistributedDataParallel(make_mlp()), []
    for score in METHODS:
        own = score(wrapped, squares, every[dist.get_rank()])
        one = score(plain, squares, [x for rank in every for x in rank])
        near = [
            torch.allclose(own[name], one[name], rtol=1e-4, atol=1e-5 * float(one[name].max()))
            for name in one
        ]
        found.append([list(own) == list(one), all(near), is_equal_on_all_ranks([*own.values()])])
    return found


@case
def a_wrapped_model_trains_as_if_it_had_not_been_scored():
    states = []
    for is_scored in (True, False):
        model, optimizer = attach(sparse.RigL(0.5, sparsity=0.5, update=2))
        for number in range(4):
            for score in METHODS if is_scored else ():
                score(model, squares, [batch(number, 4, 8)])
            step(model, optimizer, number)
        states.append(list(model.state_dict().values()))
    return all(map(torch.equal, *states))


@case
def a_weight_that_one_rank_uses_is_scored_on_all():
    model = DistributedDataParallel(make_mlp())

    def loss_fn(model, x):
        return (model[0](x) if dist.get_rank() else model(x)).pow(2).mean()

    scores = snip(model, loss_fn, [batch(dist.get_rank(), 4, 8)])
    return [bool(scores["2.weight"].any()), is_equal_on_all_ranks([*scores.values()])]


@case
def scores_of_a_sharded_model_are_refused():
    model = fully_shard(make_mlp(), mesh=mesh())
    return error_of(snip, model, squares, [batch(0, 4, 8)])


@case
def first_masks_from_scores_over_shards_are_those_over_the_whole():
    found = []
    scores = {"0.weight": batch(1, 16, 8), "2.weight": batch(2, 4, 16) + 1}
    for options in (
        {},
        {"distribution": "global"},
        {"distribution": {"type": "global", "normalize": "l2", "minimum": 0.1}},
        {"structure": Block((2, 4))},
        {"structure": Channel(1), "distribution": "global"},
    ):
        masks = []
        for model in (make_mlp(), fully_shard(make_mlp(), mesh=mesh())):
            init = sparse.init.from_scores(scores)
            sparsity = sparse.Static(0.7, init_method=init, **options)
            sparsity.apply(model)
            masks.append([whole(p.mask) for p in sparsity.sparse_params.values()])
        found.append(all(map(torch.equal, *masks)))
    return found


@case
def masks_from_scores_of_a_wrapped_model_agree():
    model = DistributedDataParallel(make_mlp())
    scores = snip(model, squares, [batch(dist.get_rank(), 4, 8)])
    sparsity = sparse.SET(0.5, sparsity=0.5, update=2, init_method=sparse.init.from_scores(scores))
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    step(model, optimizer, 0)
    return is_equal_on_all_ranks([*masks_of(sparsity).values()])
