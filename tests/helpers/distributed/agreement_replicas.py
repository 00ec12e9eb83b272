"""Cases of replicas that must agree between ranks, and the errors if they do not."""

from __future__ import annotations

import functools
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from helpers.distributed.agreement import (
    after_a_non_finite_gradient_on_rank_1,
    attach,
    error_of,
    make_cases,
    rigl,
    step,
)
from helpers.distributed.replicas_worker import is_equal_on_all_ranks
from helpers.support import make_mlp, masks_of

CASES, case = make_cases()


@case
def a_non_finite_gradient_on_one_rank_leaves_the_masks_of_all():
    found, sparsity, model = after_a_non_finite_gradient_on_rank_1(make_mlp(), wrap=True)
    equal = is_equal_on_all_ranks([*masks_of(sparsity).values(), *model.parameters()])
    return [*found, equal]


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
    """Give every rank a separate process group, so that no ranks average or compare."""
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


DIFFERENT = {
    "algorithm": (lambda: sparse.SET(0.3, sparsity=0.5), lambda: sparse.RigL(0.3, sparsity=0.5)),
    "distribution": (
        lambda: sparse.RigL(sparsity=0.5, update=2, distribution="erk"),
        lambda: sparse.RigL(sparsity=0.5, update=2, distribution="global"),
    ),
    "structure": (lambda: sparse.STE(0.5), lambda: sparse.STE(structure="2:4")),
    "storage": (
        lambda: sparse.SET(sparsity=0.5, storage="shadowed"),
        lambda: sparse.SET(sparsity=0.5),
    ),
    "update": (lambda: sparse.SET(sparsity=0.5, update=2), lambda: sparse.SET(sparsity=0.5)),
}


@case
def algorithms_that_differ_are_told_at_the_first_step():
    """Use algorithms that would otherwise wait for gradients that other ranks do not send."""
    found = {}
    for name, makes in DIFFERENT.items():
        model, optimizer = attach(makes[dist.get_rank() % 2]())
        found[name] = error_of(step, model, optimizer, 0).partition(" ranks: ")[0] + " ranks"
    return found


@case
def ranks_without_a_sparse_weight_are_told_like_the_others():
    picked = "*" if dist.get_rank() else "no weight has this name"
    sparsity = sparse.Group({picked: sparse.Static(0.5)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, optimizer = attach(sparsity)
        return error_of(step, model, optimizer, 0)


@case
def functions_and_objects_of_the_users_own_are_equal_on_all_ranks():
    """Use functions and objects that have a memory address in their repr."""
    held = [bytearray(1000 * dist.get_rank() + 1) for _ in range(10)]
    sparsity = sparse.RigL(
        lambda step: 0.3,
        sparsity=lambda step: 0.5,
        update=lambda step: True,
        structure=Rows(),
        distribution=functools.partial(levels, held=object()),
    )
    model, optimizer = attach(sparsity)
    for number in range(2):
        step(model, optimizer, number)
    return [sparsity.step, len(held)]


class Rows(sparse.utils.ScoreShaper):
    def __call__(self, tensor):
        return tensor, lambda rows: rows


def levels(shapes, level, held):
    return dict.fromkeys(shapes, level)


@case
def a_state_that_differs_is_told_at_the_next_step():
    sparsity = rigl()
    model, optimizer = attach(sparsity)
    for number in range(2):
        step(model, optimizer, number)
    sparsity.load_state_dict({**sparsity.state_dict(), "seed": dist.get_rank()})
    return error_of(step, model, optimizer, 2)


@case
def another_process_group_is_met_at_the_next_step():
    sparsity = rigl()
    model, optimizer = attach(sparsity)
    step(model, optimizer, 0)
    sparsity.seed = dist.get_rank()
    sparsity.process_group = dist.new_group()
    return error_of(step, model, optimizer, 1)


@case
def a_compiled_wrapper_brings_its_ranks():
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    own = groups[dist.get_rank()]
    model = DistributedDataParallel(make_mlp(), process_group=own)
    sparsity = sparse.Static(0.5)
    sparsity.apply(torch.compile(model, backend="eager"))
    return sparsity.process_group is own
