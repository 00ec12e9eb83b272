"""Cases in which weights are sharded, gathered, moved or loaded."""

from __future__ import annotations

import copy
import gc
import weakref

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import sparsewright as sparse
from helpers.distributed.agreement import attach, error_of, make_cases, mesh, step
from helpers.distributed.agreement_replicas import DIFFERENT
from helpers.support import batch, make_mlp, trained_by
from sparsewright.kernels.sharded import local, shard_like

CASES, case = make_cases()

ALGORITHMS = {
    "rigl": lambda: sparse.RigL(0.5, sparsity=0.5, update=1),
    "gmp": lambda: sparse.GMP([0.4, 0.5], update=1, distribution="global", init_method="topk"),
    "ste": lambda: sparse.STE(0.5, structure="2:4"),
}


def sharded_mlp(seed=0):
    return fully_shard(make_mlp(seed), mesh=mesh())


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def are_equal(first, second):
    """Return whether two (model, algorithm) pairs have equal masks and nearly equal weights."""
    (model, sparsity), (other, other_sparsity) = first, second
    own = trained_by(model, sparsity)
    close = [
        torch.allclose(whole(own[name]), whole(tensor), rtol=0, atol=1e-6)
        for name, tensor in trained_by(other, other_sparsity).items()
    ]
    pairs = zip(sparsity.sparse_params.values(), other_sparsity.sparse_params.values(), strict=True)
    same = [torch.equal(whole(a.mask), whole(b.mask)) and a.kept == b.kept for a, b in pairs]
    return all(close) and all(same) and len(close) == len(own)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def loss_of(model, number):
    x = batch(number, 4, 8).to(next(model.parameters()).dtype)
    return model(x).pow(2).mean()


def train(model, optimizer, is_gathered=False):
    """Do four steps on batches that are equal on all ranks, optionally with gathered weights."""
    for number in range(4):
        optimizer.zero_grad()
        loss_of(model, number).backward()
        if is_gathered:
            model.unshard()
        optimizer.step()
        if is_gathered:
            model.reshard()


def trained_whole(make, prepare=lambda model: None):
    """Train a model in this process alone; return it and its algorithm."""
    model, sparsity = make_mlp(), make()
    sparsity.process_group = None
    sparsity.apply(model)
    prepare(model)
    optimizer = sgd(model)
    sparsity.apply(optimizer)
    train(model, optimizer)
    return model, sparsity


@case
def algorithms_that_differ_are_told_before_masks_of_shards_are_made():
    found = {}
    for name, makes in DIFFERENT.items():
        error = error_of(makes[dist.get_rank() % 2]().apply, sharded_mlp())
        found[name] = error.partition(" ranks: ")[0] + " ranks"
    return found


@case
def a_weight_that_was_sharded_is_not_held_whole():
    model, sparsity = make_mlp(), ALGORITHMS["rigl"]()
    sparsity.apply(model)
    weight = weakref.ref(model[0].weight)
    optimizer = sgd(fully_shard(model, mesh=mesh()))
    sparsity.apply(optimizer)
    step(model, optimizer, 0)
    gc.collect()
    return weight() is None


@case
def a_model_that_forward_left_gathered_is_sharded_again_by_apply():
    """Apply after a forward pass, which leaves the root's weights gathered under FSDP2."""
    expected, found = trained_whole(ALGORITHMS["rigl"]), []
    for is_sharded_first in (True, False):
        model, sparsity = make_mlp(), ALGORITHMS["rigl"]()
        if not is_sharded_first:
            sparsity.apply(model)
        fully_shard(model, mesh=mesh())
        with torch.no_grad():
            loss_of(model, 0)
        was_gathered = not isinstance(model[0].weight, DTensor)
        if is_sharded_first:
            sparsity.apply(model)
        optimizer = sgd(model) if is_sharded_first else sgd_of_shards(model)
        sparsity.apply(optimizer)
        train(model, optimizer)
        found.append([was_gathered, are_equal((model, sparsity), expected)])
    return found


def sgd_of_shards(model):
    """Return an optimizer of a gathered model's shards; the model stays gathered."""
    model.reshard()
    optimizer = sgd(model)
    model.unshard()
    return optimizer


@case
def a_model_that_is_gathered_while_the_optimizer_steps_trains_on():
    found = []
    for make in ALGORITHMS.values():
        model, sparsity = sharded_mlp(), make()
        sparsity.apply(model)
        optimizer = sgd(model)
        sparsity.apply(optimizer)
        train(model, optimizer, is_gathered=True)
        found.append(are_equal((model, sparsity), trained_whole(make)))
    return found


@case
def closures_of_sharded_models_see_pruned_weights():
    found = []
    for make in ALGORITHMS.values():
        model, sparsity = sharded_mlp(), make()
        sparsity.apply(model)
        optimizer = sgd(model)
        sparsity.apply(optimizer)
        closure = Closure(model, sparsity, optimizer)
        for _ in range(4):
            optimizer.step(closure)
        found.append([closure.saw_pruned, are_equal((model, sparsity), trained_whole(make))])
    return found


class Closure:
    """Compute the loss of each step, and check that the weights it sees are pruned."""

    def __init__(self, model, sparsity, optimizer):
        self.model, self.sparsity, self.optimizer = model, sparsity, optimizer
        self.number, self.saw_pruned = 0, True

    def __call__(self):
        self.optimizer.zero_grad()
        loss = loss_of(self.model, self.number)
        for parameter in self.sparsity.sparse_params.values():
            gathered = parameter.module.weight.detach()
            self.saw_pruned &= not whole(gathered)[~parameter.mask.full_tensor()].any()
        loss.backward()
        self.number += 1
        return loss


@case
def a_sharded_model_of_another_type_trains():
    found = []
    for make in ALGORITHMS.values():
        model, sparsity = sharded_mlp(), make()
        sparsity.apply(model)
        model.double()
        optimizer = sgd(model)
        sparsity.apply(optimizer)
        train(model, optimizer)
        expected = trained_whole(make, prepare=nn.Module.double)
        is_double = all(v.dtype == torch.float64 for v in trained_by(model, sparsity).values())
        found.append(is_double and are_equal((model, sparsity), expected))
    return found


@case
def a_sharded_model_made_on_the_meta_device_trains():
    found = []
    for make in ALGORITHMS.values():
        model, sparsity = make_mlp().to("meta"), make()
        sparsity.apply(model)
        fully_shard(model, mesh=mesh()).to_empty(device="cpu")
        with torch.no_grad():
            for own, value in zip(model.parameters(), make_mlp().parameters(), strict=True):
                local(own).copy_(local(shard_like(value.detach(), own)))
        optimizer = sgd(model)
        sparsity.apply(optimizer)
        train(model, optimizer)
        found.append(are_equal((model, sparsity), trained_whole(make)))
    return found


def goes_on(make, load):
    """Return whether a sharded run continues unchanged in another model after `load`."""
    model, optimizer = attach(sparsity := make(), sharded_mlp(), wrap=False)
    for number in range(3):
        step(model, optimizer, number)
    state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(sparsity.state_dict())
    again, other = make(), sharded_mlp(seed=3)
    again.apply(other)
    load(other, model)
    other_optimizer = sgd(other)
    again.apply(other_optimizer)
    other_optimizer.load_state_dict(state[0])
    again.load_state_dict(state[1])
    for number in range(3, 6):
        step(model, optimizer, number)
        step(other, other_optimizer, number)
    return are_equal((model, sparsity), (other, again))


@case
def a_sharded_state_is_assigned_and_trains_on():
    def assign(model, trained):
        model.load_state_dict(copy.deepcopy(trained.state_dict()), assign=True)

    return [goes_on(make, assign) for make in ALGORITHMS.values()]


@case
def a_full_state_is_sent_by_one_rank_and_trains_on():
    def send(model, trained):
        full = get_model_state_dict(trained, options=StateDictOptions(full_state_dict=True))
        state = full if dist.get_rank() == 0 else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, state, options=options)

    return [goes_on(make, send) for make in ALGORITHMS.values()]


@case
def ties_over_layers_and_shards_are_those_of_the_whole():
    found = []
    for make in (
        lambda: sparse.Static(0.4, init_method="topk", distribution="global"),
        lambda: sparse.STE(0.4, distribution="global"),
    ):
        masks = []
        for is_sharded in (False, True):
            model = make_mlp()
            with torch.no_grad():
                for weight in (model[0].weight, model[2].weight):
                    weight.copy_((weight * 16).round() / 16)
            weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).abs()
            (sparsity := make()).apply(fully_shard(model, mesh=mesh()) if is_sharded else model)
            masks.append([whole(p.mask) for p in sparsity.sparse_params.values()])
        kept = torch.cat([mask.flatten() for mask in masks[0]])
        at_threshold = kept[weights == weights[kept].min()]
        found.append([all(map(torch.equal, *masks)), int(at_threshold.sum()) < len(at_threshold)])
    return found
