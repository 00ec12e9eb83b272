"""Compressed layers have the derivatives of masked layers: all orders, modes and batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from helpers.derivatives import MODELS, assert_same_derivatives, call, pair, trainable
from helpers.support import batch
from sparsewright.layers.csr_product import sparse_linear
from sparsewright.nn import SparseLinear

# The first use of torch's forward mode scripts its decompositions, which warns.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def loss_of(model):
    def loss(params, x):
        return call(model)(params, x).square().sum()

    return loss


def masks_of(sparsity):
    return {name: p.mask for name, p in sparsity.sparse_params.items()}


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(0, 4),
    rows=st.integers(0, 5),
    cols=st.integers(0, 5),
    level=st.sampled_from([0.0, 0.4, 1.0]),
    bias=st.booleans(),
)
def test_every_shape_has_two_derivatives_in_both_modes(tokens, rows, cols, level, bias):
    layer = SparseLinear(cols, rows, sparsity=level)
    x = torch.randn(tokens, cols, dtype=torch.double, requires_grad=True)
    values = layer.values.detach().double().requires_grad_()
    own = torch.randn(rows, dtype=torch.double, requires_grad=True) if bias else None

    def product(x, values, *bias):
        return sparse_linear(x, values, layer.layout, *bias)

    inputs = [x, values] + ([own] if bias else [])
    assert torch.autograd.gradcheck(product, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(product, inputs, check_fwd_over_rev=True)


@every_model
def test_a_loss_of_slopes(make):
    (masked, sparsity), (compressed, other) = pair(make)
    grads = []
    for model in (masked, compressed):
        x = batch(0, 5, 6).requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (slope.square().sum(1) - 1).square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    own = masks_of(sparsity)
    assert all(torch.equal(mask, own[name]) for name, mask in masks_of(other).items())
    found, expected = grads[1], grads[0]
    # The last bias has no gradient, because the slope does not depend on it.
    missing = [name for name, g in expected.items() if g is None]
    expected = {name: g for name, g in expected.items() if name not in missing}
    found = {name: g for name, g in found.items() if name not in missing}
    assert_same_derivatives(found, expected, own)


@every_model
def test_a_penalty_on_the_gradient_of_the_parameters(make):
    _, (model, _) = pair(make)
    x = batch(0, 5, 6)
    params = {name: p.detach().double() for name, p in model.named_parameters()}

    def penalty(*tensors):
        given = dict(zip(params, tensors, strict=True))
        grads = torch.autograd.grad(loss_of(model)(given, x.double()), tensors, create_graph=True)
        return sum(g.square().sum() for g in grads)

    assert torch.autograd.gradcheck(penalty, [p.requires_grad_() for p in params.values()])


@every_model
@pytest.mark.parametrize("size", [5, 1, 0])
def test_gradients_of_each_sample(make, size):
    (masked, sparsity), (compressed, _) = pair(make)
    x, found = batch(0, size, 6), []
    for model in (masked, compressed):
        each = vmap(grad(loss_of(model)), in_dims=(None, 0))
        found.append(each(trainable(model), x.unsqueeze(1)))
    assert_same_derivatives(found[1], found[0], masks_of(sparsity))
    assert all(len(tensor) == size for tensor in found[1].values())


@every_model
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobians(make, transform):
    (masked, sparsity), (compressed, _) = pair(make)
    x = batch(0, 3, 6)
    found = [transform(call(model))(trainable(model), x) for model in (masked, compressed)]
    assert_same_derivatives(found[1], found[0], masks_of(sparsity))


@every_model
def test_hessian_and_batched_products_of_it(make):
    _, (model, _) = pair(make)
    x, params = batch(0, 3, 6), trainable(model)
    first = next(iter(params))

    def loss(values):
        return loss_of(model)({**params, first: values}, x)

    found = hessian(loss)(params[first])
    own = params[first].clone().requires_grad_()
    expected = torch.autograd.functional.hessian(loss, own)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    (slope,) = torch.autograd.grad(loss(own), own, create_graph=True)
    rows = torch.eye(own.numel())
    (batched,) = torch.autograd.grad(slope, own, rows, is_grads_batched=True)
    torch.testing.assert_close(batched, expected, atol=1e-5, rtol=1e-4)


@every_model
def test_forward_mode(make):
    (masked, sparsity), (compressed, _) = pair(make)
    x, masks, outputs = batch(0, 3, 6), masks_of(sparsity), []
    for model in (masked, compressed):
        params = trainable(model)
        tangents = {}
        for name, param in params.items():
            mask = masks.get(name.replace("values", "weight"))
            ones = torch.ones_like(param)
            tangents[name] = ones * mask if mask is not None and param.ndim == 2 else ones
        y, tangent = jvp(lambda p, model=model: call(model)(p, x), (params,), (tangents,))
        with torch.no_grad(), forward_ad.dual_level():
            dual = {n: forward_ad.make_dual(p, tangents[n]) for n, p in params.items()}
            other = forward_ad.unpack_dual(call(model)(dual, x)).tangent
        torch.testing.assert_close(other, tangent)
        outputs.append((y, tangent))
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)


def test_an_ensemble_of_equal_masks():
    torch.manual_seed(0)
    models = [SparseLinear(6, 4, sparsity=0.5) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict({**model.state_dict(), "weight_mask": models[0].weight_mask})
    params, _ = stack_module_state(models)
    x = batch(0, 5, 6)
    for inputs, dim in ((x, None), (batch(1, 3, 5, 6), 0), (batch(1, 5, 3, 6), 1)):
        found = vmap(call(models[0]), in_dims=(0, dim))(params, inputs)
        for index, model in enumerate(models):
            own = inputs if dim is None else inputs.select(dim, index)
            torch.testing.assert_close(found[index], model(own))


def test_vmap_inside_of_vmap():
    layer = SparseLinear(6, 4, sparsity=0.5)
    x = batch(0, 2, 3, 5, 6)
    torch.testing.assert_close(vmap(vmap(layer))(x), layer(x))
    values = torch.stack([layer.values, 2 * layer.values]).detach()
    both = vmap(
        vmap(lambda v, x: sparse_linear(x, v, layer.layout), in_dims=(None, 0)), in_dims=(0, None)
    )
    expected = torch.stack([layer(x[0]) - layer.bias, 2 * (layer(x[0]) - layer.bias)])
    torch.testing.assert_close(both(values, x[0]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_has_the_same_derivatives(dtype):
    layer = SparseLinear(6, 4, sparsity=0.5)
    x = batch(0, 3, 6).to(dtype)
    params = trainable(layer)
    y, tangent = jvp(lambda p: call(layer)(p, x), (params,), (params,))
    assert y.dtype == tangent.dtype == dtype
    # The layer is linear in its parameters, so it is its own tangent.
    torch.testing.assert_close(tangent, y, atol=1e-2, rtol=1e-2)
    each = vmap(grad(lambda p, x: call(layer)(p, x).float().sum()), in_dims=(None, 0))
    assert each(params, x)["values"].shape == (3, layer.values.numel())
