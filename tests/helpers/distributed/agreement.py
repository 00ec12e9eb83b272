"""Helpers for the cases of agreement between ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import sparsewright as sparse
from helpers.support import batch, make_mlp
from sparsewright.errors import SparsewrightError
from sparsewright.kernels.sharded import local


def make_cases():
    """Return a dict of cases and the decorator that adds a function to it by name."""
    cases = {}

    def case(function):
        cases[function.__name__] = function
        return function

    return cases, case


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


def local_masks_of(sparsity):
    return [local(p.mask).clone() for p in sparsity.sparse_params.values()]


def mesh(*shape):
    return init_device_mesh("cpu", shape or (dist.get_world_size(),))


def after_a_non_finite_gradient_on_rank_1(model, wrap):
    """Train with infinities in the dense gradient of rank 1, at pruned positions only."""
    sparsity = rigl()
    model, optimizer = attach(sparsity, model, wrap=wrap)
    step(model, optimizer, 0)
    before = local_masks_of(sparsity)
    optimizer.zero_grad()
    model(batch(5 + dist.get_rank(), 4, 8)).pow(2).mean().backward()
    if dist.get_rank() == 1:
        for parameter in sparsity.sparse_params.values():
            dense = sparsity.session.tap_of(parameter).gradient().dense()
            local(dense)[~local(parameter.mask)] = torch.inf
    optimizer.step()
    same = all(map(torch.equal, before, local_masks_of(sparsity)))
    for number in (2, 3):
        step(model, optimizer, number)
    moved = not all(map(torch.equal, before, local_masks_of(sparsity)))
    finite = all(bool(local(p).isfinite().all()) for p in model.parameters())
    return [same, moved, finite], sparsity, model
