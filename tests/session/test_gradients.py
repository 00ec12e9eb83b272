"""Pruning of gradients during backward, and collection of dense gradients for update steps."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.checkpoint import checkpoint

import sparsewright as sparse
from helpers.support import TORCH, assert_pruned, backward, batch, make_mlp, masks_of, train
from sparsewright.errors import AlgorithmError, AttachError, ScoreError


class Watch(sparse.DynamicSparsityAlgorithm):
    """Record the dense gradient of each update, and keep every mask."""

    needs_dense_gradient = True

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = {}

    def update_mask(self, p, mask, sparsity):
        self.seen.setdefault(self.step, []).append(self.dense_gradient(p).clone())
        return mask


def start(algorithm, model=None, make=lambda params: SGD(params, 0.1, momentum=0.9)):
    model = make_mlp() if model is None else model
    algorithm.apply(model)
    optimizer = make(model.parameters())
    algorithm.apply(optimizer)
    return model, optimizer


def dense_gradients(model, steps):
    """Return the summed gradients of the weights in a model without sparsity."""
    twin = make_mlp()
    with torch.no_grad():
        for own, other in zip(twin.parameters(), model.parameters(), strict=True):
            own.copy_(other)
    for step in steps:
        backward(twin, step)
    return [twin[0].weight.grad, twin[2].weight.grad]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("micro", [1, 3])
def test_the_dense_gradient_is_summed_over_micro_batches(set_to_none, micro):
    algorithm = Watch(sparsity=0.5, update=2)
    model, optimizer = start(algorithm)
    for step in range(4):
        expected = dense_gradients(model, range(10 * step, 10 * step + micro))
        optimizer.zero_grad(set_to_none=set_to_none)
        for index in range(micro):
            backward(model, 10 * step + index)
            assert_pruned(algorithm)
        optimizer.step()
        if step % 2 == 1:
            for found, dense in zip(algorithm.seen[step + 1], expected, strict=True):
                torch.testing.assert_close(found, dense)
                assert (dense != 0).sum() > found.numel() / 2
    assert list(algorithm.seen) == [2, 4]


def test_non_update_steps_hold_no_dense_gradient():
    algorithm = Watch(sparsity=0.5, update=3)
    model, optimizer = start(algorithm)
    weight = model[0].weight
    for step in range(1, 7):
        # The dense gradient is collected only in a step that leads to an update.
        assert bool(weight._backward_hooks) == (step % 3 == 0)
        train(model, optimizer, 1, start=step)
        with pytest.raises(
            AlgorithmError, match=r"Watch.dense_gradient: call it inside update_mask"
        ):
            algorithm.dense_gradient(weight)


def test_autograd_grad_leaves_no_trace():
    algorithm = Watch(sparsity=0.5, update=1)
    model, optimizer = start(algorithm)
    expected = dense_gradients(model, [1])
    weights = [model[0].weight, model[2].weight]
    torch.autograd.grad(model(batch(7, 5, 8)).sum() * 100, weights)
    assert model[0].weight.grad is None
    backward(model, 1)
    torch.autograd.grad(model(batch(8, 5, 8)).sum() * 100, weights)
    optimizer.step()
    for found, dense in zip(algorithm.seen[1], expected, strict=True):
        torch.testing.assert_close(found, dense)


def test_two_forwards_before_one_backward_and_tied_use():
    algorithm = Watch(sparsity=0.5, update=1)
    model, optimizer = start(algorithm)
    twin = make_mlp()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "mask" not in k})
    for net in (model, twin):
        first, second = net(batch(1, 5, 8)), net(batch(2, 5, 8))
        (first * second).mean().backward()
    optimizer.step()
    torch.testing.assert_close(algorithm.seen[1][0], twin[0].weight.grad)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("make", [lambda: Watch(sparsity=0.5, update=1), None])
def test_steps_that_a_grad_scaler_skips_leave_no_trace(fused, set_to_none, make):
    algorithm = make() if make else sparse.RigL(sparsity=0.5, update=1)
    model, optimizer = start(algorithm, make=lambda params: Adam(params, 0.01, fused=fused))
    twin_algorithm = make() if make else sparse.RigL(sparsity=0.5, update=1)
    twin, twin_optimizer = start(twin_algorithm, make=lambda p: Adam(p, 0.01, fused=fused))
    # The overflow halves the first scale, so both scales are equal afterwards.
    scalers = {id(m): torch.amp.GradScaler("cpu", s) for m, s in ((model, 4.0), (twin, 2.0))}
    masks = masks_of(algorithm)

    def one(model, optimizer, step, factor=1.0):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = model(batch(step, 5, 8)).pow(2).mean() * factor
        scaler = scalers[id(model)]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    one(model, optimizer, 1, factor=float("inf"))
    assert algorithm.step == 0
    assert all(torch.equal(masks[name], mask) for name, mask in masks_of(algorithm).items())
    assert_pruned(algorithm, optimizer)
    for step in range(2, 5):
        one(model, optimizer, step)
        one(twin, twin_optimizer, step)
        assert_pruned(algorithm, optimizer)
    assert algorithm.step == twin_algorithm.step == 3
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)
    if make:
        for own, other in zip(algorithm.seen[1], twin_algorithm.seen[1], strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("make", [sparse.RigL, sparse.SET, None])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["kept", "pruned"])
def test_a_gradient_that_is_not_finite_keeps_the_mask_until_the_next_update(make, bad, where):
    if make is None:
        algorithm = sparse.GMP({"type": "linear", "init": 0.1, "slope": 0.1}, update=2)
    else:
        algorithm = make(sparsity=0.5, update=2)
    model, positions = make_mlp(), []
    model[0].weight.register_hook(lambda grad: put(grad, positions, bad))
    _, optimizer = start(algorithm, model, make=lambda params: SGD(params, 0.0))
    parameter = algorithm.sparse_params["0.weight"]
    train(model, optimizer, 1)
    before = parameter.mask.clone()
    positions += (parameter.mask if where == "kept" else ~parameter.mask).nonzero()[:1].tolist()
    weights = model[0].weight.detach().clone()
    train(model, optimizer, 1, start=1)
    changed = not torch.equal(parameter.mask, before)
    # At a pruned connection it is removed, unless the update needs the dense gradient.
    assert changed == (where == "pruned" and make is not sparse.RigL)
    assert algorithm.step == 2
    assert_pruned_but_for_nan(parameter)
    positions.clear()
    with torch.no_grad():
        model[0].weight.copy_(weights)
    before = parameter.mask.clone()
    train(model, optimizer, 1, start=2)
    assert torch.equal(parameter.mask, before)
    train(model, optimizer, 1, start=3)
    assert not torch.equal(parameter.mask, before)


def put(grad, positions, value):
    grad = grad.clone()
    for position in positions:
        grad[tuple(position)] = value
    return grad


def assert_pruned_but_for_nan(parameter):
    assert not parameter.param.detach()[~parameter.mask].any()
    assert not parameter.param.grad[~parameter.mask].any()


def test_nan_stays_where_kept_and_vanishes_where_pruned():
    algorithm = sparse.Static(0.5)
    model, optimizer = start(algorithm)
    parameter = algorithm.sparse_params["0.weight"]
    handle = model[0].weight.register_hook(lambda grad: torch.full_like(grad, torch.nan))
    backward(model)
    assert torch.equal(model[0].weight.grad.isnan(), parameter.mask)
    optimizer.step()
    assert torch.equal(model[0].weight.isnan(), parameter.mask)
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"].isnan(), parameter.mask)
    handle.remove()


@pytest.mark.parametrize("make", [sparse.RigL, sparse.SET])
def test_a_parameter_without_gradient_keeps_its_mask(make):
    algorithm = make(sparsity=0.5, update=1)
    model = nn.ModuleDict({"used": make_mlp(), "unused": make_mlp(1)})
    _, optimizer = start(algorithm, model)
    before = masks_of(algorithm)
    for step in range(2):
        optimizer.zero_grad()
        backward(model["used"], step)
        optimizer.step()
    after = masks_of(algorithm)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("unused")
    assert_pruned(algorithm, optimizer)


def test_nan_weights_raise_and_name_parameter_and_step():
    algorithm = sparse.SET(sparsity=0.5, update=1)
    model, optimizer = start(algorithm)
    backward(model)
    with torch.no_grad():
        model[2].weight[algorithm.sparse_params["2.weight"].mask] = torch.nan
    with pytest.raises(ScoreError, match=r"score of 2.weight at step 1 contains NaN"):
        optimizer.step()
    model = make_mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(ScoreError, match=r"score of 2.weight contains NaN"):
        sparse.Static(0.5, "topk").apply(model)


@pytest.mark.parametrize("make", [lambda: sparse.Static(0.75), lambda: sparse.RigL(sparsity=0.75)])
def test_clipping_measures_live_gradients_only(make):
    algorithm = make()
    model, _ = start(algorithm)
    backward(model, 3)
    live = [
        *(p.param.grad[p.mask] for p in algorithm.sparse_params.values()),
        model[0].bias.grad.clone(),
        model[2].bias.grad.clone(),
    ]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in live]).norm()), rel=1e-6)
    whole = [*dense_gradients(model, [3]), *live[2:]]
    assert norm < 0.95 * torch.cat([g.flatten() for g in whole]).norm()


def test_an_override_of_grad_hook_replaces_the_gradient():
    class Halved(sparse.Static):
        def _grad_hook(self, p, grad):
            return super()._grad_hook(p, grad) / 2

    first, second = Halved(0.5), sparse.Static(0.5)
    (halved, _), (plain, _) = start(first), start(second)
    backward(halved)
    backward(plain)
    assert torch.equal(halved[0].weight.grad * 2, plain[0].weight.grad)
    assert torch.equal(halved[0].bias.grad, plain[0].bias.grad)
    tensor = torch.ones(3)
    assert first._grad_hook(tensor, tensor) is not tensor
    assert second._grad_hook(tensor, tensor) is tensor


class Product(torch.autograd.Function):
    """A custom autograd function that saves the weight."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        return dy @ weight, dy.T @ x


def test_a_weight_that_a_custom_function_saves_inside_of_a_checkpoint():
    """Up to torch 2.9 the hooks are lost, which raises instead of giving a partial gradient."""

    class Own(nn.Linear):
        def forward(self, x):
            return checkpoint(Product.apply, x, self.weight, use_reentrant=False)

    algorithm = Watch(sparsity=0.5, update=1)
    model, optimizer = start(algorithm, Own(8, 4, bias=False))
    x = batch(0, 5, 8).requires_grad_()
    expected = 2 * (x @ model.weight.T).detach().T @ x.detach()
    loss = model(x).pow(2).sum()
    if TORCH < (2, 10):
        with pytest.raises(AttachError, match="lost the hook"):
            loss.backward()
    else:
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(algorithm.seen[1][0], expected)
