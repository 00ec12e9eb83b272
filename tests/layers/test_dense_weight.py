"""The weight of a compressed layer, used by code that expects an `nn.Linear`."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import batch
from sparsewright.errors import AttachError, ShapeError
from sparsewright.layers.indexed_layer import IndexedKind, IndexedLayer
from sparsewright.nn import SparseLinear


class SparseConv2d(IndexedLayer, nn.Conv2d):
    """A second kind of compressed layer, derived from `IndexedLayer`."""


class SparseConv2dKind(IndexedKind):
    dense, compressed = nn.Conv2d, SparseConv2d


def linears():
    torch.manual_seed(0)
    masked = nn.Linear(8, 6)
    mask = torch.rand(6, 8) < 0.5
    masked.weight.data.mul_(mask)
    return masked, SparseLinear.from_linear(copy.deepcopy(masked), mask), mask


def convolutions():
    torch.manual_seed(0)
    masked = nn.Conv2d(3, 4, 3)
    mask = torch.rand(4, 3, 3, 3) < 0.5
    masked.weight.data.mul_(mask)
    return masked, SparseConv2dKind().compress(copy.deepcopy(masked), mask), mask


every_kind = pytest.mark.parametrize("make", [linears, convolutions])


def flatten_and_halve(layer):
    layer.weight.view(-1).mul_(0.5)


def normalize_rows(layer):
    for row in layer.weight.unbind(0):
        row.div_(row.norm() + 1)


def halve_all(layer):
    torch._foreach_mul_([layer.weight, layer.bias], 0.5)


def halve_both(layer):
    layer.weight.mul_(0.5)
    layer.weight.data.mul_(0.5)


def assign_data(layer):
    layer.weight.data = layer.weight.data * 0.5


def merge(layer):
    delta = torch.ones_like(layer.weight) * (layer.weight != 0)
    layer.weight.data += delta


WRITES = {
    "clip": lambda layer: layer.weight.clamp_(-0.1, 0.1),
    "clip the data": lambda layer: layer.weight.data.clamp_(-0.1, 0.1),
    "max norm": lambda layer: layer.weight.renorm_(2, 0, 0.1),
    "a row": lambda layer: layer.weight[0].mul_(3),
    "rows to zero": lambda layer: layer.weight.__setitem__(slice(0, 2), 0.0),
    "a chunk": lambda layer: layer.weight.chunk(2)[1].zero_(),
    "transposed": lambda layer: layer.weight.transpose(0, 1).mul_(2),
    "flattened": flatten_and_halve,
    "detached": lambda layer: layer.weight.detach().mul_(2),
    "row by row": normalize_rows,
    "towards another": lambda layer: layer.weight.lerp_(torch.zeros_like(layer.weight), 0.5),
    "out": lambda layer: torch.mul(layer.weight, 2, out=layer.weight),
    "a list": halve_all,
    "twice": halve_both,
    "assigned data": assign_data,
    "merged": merge,
    "small ones away": lambda layer: layer.weight.masked_fill_(layer.weight.abs() < 0.1, 0),
    "state dict": lambda layer: layer.state_dict()["weight"].mul_(2),
    "state dict of variables": lambda layer: layer.state_dict(keep_vars=True)["weight"].mul_(2),
    "vector": lambda layer: nn.utils.vector_to_parameters(
        torch.zeros(layer.weight.numel()), [layer.weight]
    ),
    "drawn": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "drawn normal": lambda layer: nn.init.normal_(layer.weight, 1.0),
    "drawn by hand": lambda layer: layer.weight.data.uniform_(-1, 1),
    "constant": lambda layer: nn.init.constant_(layer.weight, 0.5),
    "reset": lambda layer: layer.reset_parameters(),
}


@every_kind
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_has_the_effect_that_it_has_on_the_masked_layer(make, mode, write):
    masked, compressed, mask = make()
    values = compressed.values
    for layer in (masked, compressed):
        torch.manual_seed(1)
        with mode():
            write(layer)
    expected = masked.weight.detach() * mask
    assert compressed.values is values
    assert torch.equal(compressed.values.detach(), compressed.gather(expected))
    assert torch.equal(compressed.weight.detach(), expected)
    assert torch.equal(compressed.bias, masked.bias)
    x = batch(0, 2, *compressed.weight_shape[1:])
    with mode():
        masked.weight.data.mul_(mask)
        torch.testing.assert_close(compressed(x), masked(x))


DENSE = {
    "added": lambda layer: layer.weight.data.add_(1.0),
    "copied": lambda layer: layer.weight.copy_(torch.ones_like(layer.weight)),
    "set": lambda layer: layer.weight.__setitem__(0, 1.0),
    "assigned": lambda layer: setattr(layer.weight, "data", torch.ones_like(layer.weight)),
    "assigned to the layer": lambda layer: setattr(layer, "weight", torch.ones(layer.weight.shape)),
    "not a number": lambda layer: layer.weight.mul_(float("nan")),
}


@every_kind
@pytest.mark.parametrize("write", DENSE.values(), ids=DENSE)
def test_a_write_that_live_values_cannot_hold_raises_and_changes_nothing(make, write):
    _, layer, _ = make()
    before = layer.values.detach().clone()
    problem = (
        r"\d+ pruned connections would get a nonzero value, but only live connections are stored; "
        r"multiply by `weight_mask` first, or call sparsewright\.decompress\(model\)$"
    )
    with torch.no_grad(), pytest.raises(AttachError, match=problem):
        write(layer)
    assert torch.equal(layer.values, before)


@every_kind
def test_writes_that_no_parameter_takes_raise(make):
    _, layer, _ = make()
    write = f"^write to the weight of a {type(layer).__name__}: "
    with pytest.raises(
        AttachError, match=rf"{write}it requires a gradient; write to it inside torch\.no_grad\(\)"
    ):
        layer.weight.mul_(2)
    with pytest.raises(
        AttachError, match=rf"{write}expected torch\.float32 of shape .*, got torch\.float64 of"
    ):
        layer.weight.data = layer.weight.data.double()
    with pytest.raises(
        AttachError, match=rf"{write}expected .*, got torch\.float32 of shape \(2, 2\)$"
    ):
        layer.weight = torch.zeros(2, 2)
    with (
        torch.no_grad(),
        pytest.raises(
            AttachError, match=rf"{write}set_ would replace its memory; use copy_ instead"
        ),
    ):
        layer.weight.set_(torch.zeros(layer.weight_shape))
    with pytest.raises(AttachError, match="no other Parameter can replace it; assign a tensor, or"):
        layer.weight = nn.Parameter(torch.zeros(layer.weight_shape))
    lost = "the assigned tensor's gradient would be lost; pass `values` instead, as in"
    with pytest.raises(AttachError, match=lost):
        layer.weight = torch.zeros(layer.weight_shape, requires_grad=True)
    with pytest.raises(AttachError, match=lost):
        torch.func.grad(lambda weight: torch.func.functional_call(layer, {"weight": weight}, ()))(
            torch.zeros(layer.weight_shape)
        )
    with pytest.raises(
        AttachError, match="the layer trains `values` instead; register the hook on `values`"
    ):
        layer.weight.register_hook(lambda grad: grad)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.detach().numpy()[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(layer.weight.detach())[0] = 0
    with pytest.raises(ValueError, match="non-leaf"):
        torch.optim.SGD([layer.weight], 0.1)
    assert layer.values.any()


@every_kind
@pytest.mark.parametrize("change", ["values", "mask", "equal values elsewhere"])
def test_a_weight_read_before_a_change_is_not_written_back(make, change):
    _, layer, mask = make()
    old = layer.weight.detach()
    if change == "values":
        layer.values.data.mul_(3)  # a write through `data` does not change the version
    elif change == "mask":
        layer.set_mask(mask.roll(1))
    else:
        layer.values.data.fill_(1)
        old, moved = layer.weight.detach(), mask.roll(1)
        state = {"weight": moved.float(), "weight_mask": moved, "bias": layer.bias}
        layer.load_state_dict(state)
    now = layer.values.detach().clone()
    with pytest.raises(
        AttachError, match=r"the values changed after it was read; read `layer\.weight` again$"
    ):
        old.mul_(2)
    assert torch.equal(layer.values, now)
    layer.weight.data.mul_(2)
    assert torch.equal(layer.values, 2 * now)


@every_kind
def test_a_call_with_another_weight_leaves_the_own_one(make):
    _, layer, mask = make()
    before = layer.values.detach().clone()
    x = batch(0, 2, *([8] if mask.ndim == 2 else [3, 5, 5]))
    doubled = copy.deepcopy(layer)
    doubled.values.data.mul_(2)
    with torch.no_grad():
        weight = layer.weight * 2
        y = torch.func.functional_call(layer, {"weight": weight}, (x,))
        assert torch.equal(y, doubled(x))
    assert torch.equal(layer.values, before)


def test_values_that_are_not_finite_can_be_mended():
    _, layer, _ = linears()
    layer.values.data[0] = float("nan")
    with torch.no_grad():
        layer.weight.nan_to_num_(0.0)
    assert layer.values[0] == 0


@every_kind
def test_its_gradient_is_that_of_the_values(make):
    masked, layer, mask = make()
    x = batch(0, 2, *layer.weight_shape[1:])
    if len(layer.weight_shape) == 4:
        x = batch(0, 2, 3, 5, 5)
    assert layer.weight.grad is None
    for each in (masked, layer):
        (each(x).square().sum() + each.weight.norm()).backward()
    expected = masked.weight.grad * mask
    torch.testing.assert_close(layer.weight.grad, expected)
    with torch.no_grad():
        layer.weight.grad.mul_(0.5)
    torch.testing.assert_close(layer.values.grad, layer.gather(expected / 2))
    nn.utils.clip_grad_norm_([layer.weight], 1e-3)
    torch.testing.assert_close(layer.values.grad.norm(), torch.tensor(1e-3))
    layer.weight.grad = expected
    torch.testing.assert_close(layer.values.grad, layer.gather(expected))
    layer.weight.grad = None
    assert layer.values.grad is None


@every_kind
def test_freezing_it_freezes_the_values(make):
    _, layer, _ = make()
    layer.weight.requires_grad = False
    assert not layer.values.requires_grad
    assert not layer.weight.requires_grad
    assert layer.weight.requires_grad_().requires_grad
    with torch.no_grad():
        assert layer.weight.requires_grad
        layer.weight.requires_grad_(False)
    assert not layer.values.requires_grad


@every_kind
def test_copies_and_files_have_plain_tensors(make):
    _, layer, _ = make()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    copies = [
        copy.deepcopy(layer.weight),
        copy.deepcopy(layer.state_dict())["weight"],
        pickle.loads(pickle.dumps(layer.weight.detach())),
        loaded["weight"],
        layer.weight.detach().clone(),
        2 * layer.weight / 2,
    ]
    for tensor in copies:
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, layer.weight)
    copies[0].zero_()
    assert layer.values.any()


def test_other_code_finds_a_linear_layer():
    masked, layer, _ = linears()
    assert isinstance(layer, nn.Linear)
    other = nn.Linear(8, 6)
    other.weight.data = layer.weight.data
    other.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    assert torch.equal(other.weight, masked.weight)
    other.weight.data.zero_()
    assert layer.values.any()


def test_an_average_over_state_dicts_is_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    sparse.Static(0.5).apply(model)
    sparse.compress(model, verbose=False)
    average = copy.deepcopy(model)
    for values in (model[0].values, model[2].values):
        values.data.mul_(3)
    own, new = average.state_dict(), model.state_dict()
    for name, tensor in own.items():
        if tensor.is_floating_point():
            tensor.copy_((tensor + new[name]) / 2)
    torch.testing.assert_close(average[0].values, model[0].values * 2 / 3)
    torch.testing.assert_close(average[2].values, model[2].values * 2 / 3)


def test_shapes_that_do_not_fit_and_types_that_would_be_rounded_raise():
    _, layer, _ = linears()
    for x in (torch.ones(3, 8, dtype=torch.int64), torch.ones(8, dtype=torch.bool)):
        problem = f"its input is {x.dtype}; pass float32 or another floating-point dtype$"
        with pytest.raises(AttachError, match=problem):
            layer(x)
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(AttachError, match=problem):
            layer(x)
    with pytest.raises(AttachError, match=r"its input is torch\.complex64; pass float32"):
        layer(torch.ones(3, 8, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="its last dimension must be 8"):
        layer(torch.tensor(1.0))


def test_wide_activations_are_not_rounded():
    masked, layer, _ = linears()
    x = batch(0, 3, 8).double().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, masked.double()(x), rtol=1e-14, atol=1e-14)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, masked.weight.sum(0).expand(3, 8), rtol=1e-14, atol=1e-14)
