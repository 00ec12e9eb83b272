"""Gradients that the user changes, replaces or sets before the step."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

import sparsewright as sparse
from helpers.support import assert_pruned, backward, make_mlp, train


def add_noise(p):
    p.grad.add_(torch.ones_like(p.grad))


def add_noise_by_data(p):
    p.grad.data.add_(torch.ones_like(p.grad))


def replace(p):
    p.grad = p.grad + 1


def centralize(p):
    if p.grad.ndim > 1:
        p.grad -= p.grad.mean(1, keepdim=True)


def expand(p):
    p.grad = torch.ones(1).expand(p.shape)


def transpose(p):
    p.grad = torch.ones(p.shape[::-1]).permute(*range(p.ndim)[::-1])


def overlap(p):
    p.grad = torch.ones(sum(p.shape)).as_strided(p.shape, [1] * p.ndim)


CHANGES = [add_noise, add_noise_by_data, replace, centralize, expand, transpose, overlap]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("in_closure", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: sparse.Static(0.5), lambda: sparse.RigL(sparsity=0.5, update=2)]
)
def test_nothing_arrives_off_the_mask(change, in_closure, make):
    model, sparsity = make_mlp(), make()
    sparsity.apply(model)
    optimizer = AdamW(model.parameters(), 1e-2)
    sparsity.apply(optimizer)
    for step in range(4):

        def closure(step=step):
            optimizer.zero_grad()
            backward(model, step)
            for p in model.parameters():
                change(p)

        if in_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        assert_pruned(sparsity, optimizer)


@pytest.mark.parametrize("change", [expand, transpose, overlap])
def test_live_weights_take_the_step(change):
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    sparsity.apply(optimizer)
    before = {n: p.param.detach().clone() for n, p in sparsity.sparse_params.items()}
    for p in model.parameters():
        change(p)
    optimizer.step()
    for name, p in sparsity.sparse_params.items():
        torch.testing.assert_close(before[name] - p.param.detach(), p.mask.float())


def test_weights_that_share_one_gradient():
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    sparsity.apply(optimizer)
    before = [layer.weight.detach().clone() for layer in model]
    grad = torch.ones(8, 8)
    for layer in model:
        layer.weight.grad = grad
    optimizer.step()
    for layer, old in zip(model, before, strict=True):
        torch.testing.assert_close(old - layer.weight.detach(), layer.weight_mask.float())


def test_views_of_one_buffer_stay_views():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    buffer, begin = torch.ones(sum(p.numel() for p in model.parameters())), 0
    for p in model.parameters():
        p.grad = buffer[begin : begin + p.numel()].view_as(p)
        begin += p.numel()
    optimizer.step()
    assert model[2].weight.grad.untyped_storage().data_ptr() == buffer.data_ptr()
    assert_pruned(sparsity)


def test_rigl_grows_by_the_gradient_of_the_backward_pass():
    """Noise added to the gradient changes the weights but not the choice of connections."""
    masks = []
    for change in (None, add_noise, replace):
        model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=1)
        sparsity.apply(model)
        optimizer = torch.optim.SGD(model.parameters(), 1e-9)
        sparsity.apply(optimizer)
        backward(model)
        for p in model.parameters() if change else ():
            change(p)
        optimizer.step()
        masks.append([p.mask.clone() for p in sparsity.sparse_params.values()])
    assert all(
        torch.equal(a, b) for other in masks[1:] for a, b in zip(masks[0], other, strict=True)
    )


def test_shadowed_weights_take_dense_changes():
    model, sparsity = make_mlp(), sparse.configure({"algorithm": "ste", "sparsity": 0.5})
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    sparsity.apply(optimizer)
    dense = {n: p.storage.weight().clone() for n, p in sparsity.sparse_params.items()}
    for p in model.parameters():
        expand(p)
    optimizer.step()
    for name, p in sparsity.sparse_params.items():
        torch.testing.assert_close(p.storage.weight(), dense[name] - 1)


@pytest.mark.parametrize("is_late", [True, False])
def test_gradients_that_a_hook_before_the_step_changes(is_late):
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = AdamW(model.parameters(), 0.01)

    def add_noise(optimizer, args, kwargs):
        for p in optimizer.param_groups[0]["params"]:
            p.grad.add_(torch.randn_like(p.grad))

    if not is_late:
        optimizer.register_step_pre_hook(add_noise)
    sparsity.apply(optimizer)
    if is_late:
        optimizer.register_step_pre_hook(add_noise)
    for step in range(6):
        train(model, optimizer, 1, step)
        assert_pruned(sparsity, optimizer)
