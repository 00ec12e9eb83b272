"""A compressed linear layer equals the masked layer."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsewright as sparse
from sparsewright.errors import AttachError, ShapeError
from sparsewright.layers.csr_product import sparse_linear
from sparsewright.nn import SparseLinear


def twins(rows=24, cols=40, level=0.7, bias=True):
    """Return a masked linear layer and its compressed counterpart."""
    torch.manual_seed(0)
    masked = nn.Linear(cols, rows, bias=bias)
    sparse.Static(level).apply(masked)
    mask = masked.weight_mask.clone()
    other = nn.Linear(cols, rows, bias=bias)
    other.load_state_dict({k: v for k, v in masked.state_dict().items() if "mask" not in k})
    return masked, SparseLinear.from_linear(other, mask)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (9, 40), (3, 50, 40), (0, 40)])
def test_forward_and_gradients_equal_the_masked_layer(shape, bias):
    masked, compressed = twins(bias=bias)
    x1 = torch.randn(shape, requires_grad=True)
    x2 = x1.detach().clone().requires_grad_()
    y1, y2 = masked(x1), compressed(x2)
    torch.testing.assert_close(y1, y2)
    grad = torch.randn_like(y1)
    y1.backward(grad)
    y2.backward(grad)
    torch.testing.assert_close(x1.grad, x2.grad)
    torch.testing.assert_close(masked.weight.grad[masked.weight_mask], compressed.values.grad)
    if bias:
        torch.testing.assert_close(masked.bias.grad, compressed.bias.grad)


def test_gradcheck():
    _, layer = twins(7, 5, 0.5)
    x = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    values = layer.values.detach().double().requires_grad_()
    bias = layer.bias.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *args: sparse_linear(args[0], args[1], layer.layout, args[2]), (x, values, bias)
    )


def test_from_shape_and_level():
    layer = SparseLinear(30, 20, sparsity=0.9)
    assert layer.layout.nnz == layer.values.numel() == 60
    assert torch.equal(layer.weight != 0, layer.weight_mask)
    assert layer(torch.randn(2, 30)).shape == (2, 20)


def test_state_dict_is_that_of_the_masked_layer_and_loads_both_ways():
    masked, compressed = twins()
    assert list(masked.state_dict()) == list(compressed.state_dict())
    for key, value in masked.state_dict().items():
        assert torch.equal(compressed.state_dict()[key], value)
    other, fresh = twins(level=0.5)
    fresh.load_state_dict(masked.state_dict())
    other.load_state_dict(compressed.state_dict())
    for layer in (fresh, other):
        assert all(torch.equal(layer.state_dict()[k], v) for k, v in masked.state_dict().items())
    dense = nn.Linear(40, 24)
    fresh.load_state_dict(dense.state_dict())
    assert torch.equal(fresh.weight, dense.weight * masked.weight_mask)


def test_a_state_that_does_not_fit_is_refused():
    _, layer = twins()
    good = layer.state_dict()
    with pytest.raises(
        RuntimeError,
        match=r"size mismatch for weight: expected .*\[24, 40\]\), got torch.Size\(\[2, 2\]\)",
    ):
        layer.load_state_dict({**good, "weight": torch.ones(2, 2)})
    with pytest.raises(
        RuntimeError, match=r"size mismatch for bias: expected .*\[24\]\), got torch.Size\(\[3\]\)"
    ):
        layer.load_state_dict({**good, "bias": torch.ones(3)})
    with pytest.raises(RuntimeError, match="weight_mask: a mask of shape"):
        layer.load_state_dict({**good, "weight_mask": torch.ones(2, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"weight": good["weight"]})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict({**good, "scale": torch.ones(1)})
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in good.items())


def test_copies_and_pickles():
    _, layer = twins()
    x = torch.randn(3, 40)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    pickled = pickle.loads(pickle.dumps(layer))
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False), pickled):
        assert torch.equal(other(x), layer(x))
        other.values.data.zero_()
        assert layer.values.any()


def test_autocast_gives_bfloat16():
    masked, compressed = twins()
    x = torch.randn(64, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y1, y2 = masked(x), compressed(x)
    assert y2.dtype == torch.bfloat16
    torch.testing.assert_close(y1.float(), y2.float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.compile(f, backend="aot_eager")])
def test_a_layer_in_bfloat16(wrap):
    masked, compressed = (layer.to(torch.bfloat16) for layer in twins())
    x = torch.randn(64, 40).bfloat16()
    y1, y2 = masked(x), wrap(compressed)(x)
    close = {"atol": 5e-2, "rtol": 5e-2}
    torch.testing.assert_close(y2, y1, **close)
    y1.square().mean().backward()
    y2.square().mean().backward()
    expected = masked.weight.grad[masked.weight_mask]
    torch.testing.assert_close(compressed.values.grad, expected, **close)
    torch.testing.assert_close(compressed.bias.grad, masked.bias.grad, **close)


def test_compile_sees_one_operator_and_no_graph_break():
    _, layer = twins()
    model = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(30, 40, requires_grad=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).square().sum().backward()
    got = layer.values.grad.clone(), x.grad.clone()
    layer.zero_grad()
    x.grad = None
    model(x).square().sum().backward()
    torch.testing.assert_close(got, (layer.values.grad, x.grad))


def test_export():
    _, layer = twins()
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(4, 40)
    program = torch.export.export(model, (x,))
    assert any("sparse_linear" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), F.relu(layer(x)))


def test_wrong_input_and_device_say_so():
    _, layer = twins()
    with pytest.raises(ShapeError, match="its last dimension must be 40"):
        layer(torch.randn(3, 41))
    problem = (
        "SparseLinear: its kernels run only on the CPU; keep layer and input there, or call "
        r"sparsewright\.decompress\(model\) first"
    )
    with pytest.raises(AttachError, match=problem):
        layer(torch.randn(3, 40, device="meta"))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_gradient_follows_a_mask_that_is_loaded(level):
    layer, other = SparseLinear(40, 24, sparsity=0.7), SparseLinear(40, 24, sparsity=level)
    layer(torch.randn(9, 40)).square().sum().backward()
    before = torch.zeros(24, 40)
    before[layer.weight_mask] = layer.values.grad
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.values.grad, before[other.weight_mask])


def test_hooks_before_loading_are_called():
    layer, seen = SparseLinear(40, 24), []
    layer.register_load_state_dict_pre_hook(lambda module, state, *rest: seen.append(list(state)))
    layer.load_state_dict(layer.state_dict())
    assert seen == [["weight", "bias", "weight_mask"]]
