"""Compressed models under tools that record a model: tracing, graphs, scripting and export."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import sparsewright as sparse
from helpers.derivatives import MODELS, mlp, pair
from helpers.support import TORCH, batch
from sparsewright.errors import AttachError

every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
ignore_deprecation = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@every_model
@ignore_deprecation
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_trace_runs_elsewhere_as_the_model_does(make, mode):
    _, (model, _) = pair(make)
    with mode():
        trace = torch.jit.trace(model, batch(0, 3, 6))
    file = io.BytesIO()
    torch.jit.save(trace, file)
    file.seek(0)
    x = batch(1, 5, 6)
    torch.testing.assert_close(torch.jit.load(file)(x), model(x))


@every_model
def test_a_graph_of_operations_has_the_product(make):
    _, (model, _) = pair(make)
    graph = make_fx(model)(batch(0, 3, 6))
    x = batch(1, 3, 6)
    torch.testing.assert_close(graph(x), model(x))


@every_model
def test_an_exported_program_runs_as_the_model_does(make):
    _, (model, _) = pair(make)
    program = torch.export.export(model, (batch(0, 3, 6),), strict=False)
    x = batch(1, 3, 6)
    torch.testing.assert_close(program.module()(x), model(x))


@every_model
def test_compiled_the_gradients_are_those_of_eager(make):
    _, (model, _) = pair(make)
    x, found = batch(0, 3, 6), []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=make is mlp)):
        model.zero_grad()
        run(x).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)


def test_a_graph_that_must_be_whole_cannot_read_the_weight():
    _, (model, _) = pair(MODELS["tied autoencoder"])
    torch.compiler.reset()  # torch does not retry code that failed to compile before
    torch.compiler.set_stance("default")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(batch(0, 3, 6))


def clip(layer):
    with torch.no_grad():
        layer.weight.clamp_(-0.1, 0.1)


def clip_data(layer):
    layer.weight.data.clamp_(-0.1, 0.1)


@pytest.mark.parametrize("write", [clip, clip_data])
def test_a_compiled_function_writes_to_the_weight(write):
    _, (model, _) = pair(MODELS["mlp"])
    expected = model[0].values.detach().clamp(-0.1, 0.1)
    torch.compile(write, backend="aot_eager")(model[0])
    assert torch.equal(model[0].values, expected)
    model[0].values.data.mul_(2)
    with torch.no_grad():
        torch.compile(lambda weight: weight.clamp_(-0.1, 0.1), backend="eager")(model[0].weight)
    assert torch.equal(model[0].values, (2 * expected).clamp(-0.1, 0.1))


def per_sample(model):
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params, x):
        return torch.func.functional_call(model, params, (x,)).square().sum()

    def gradients(x):
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)

    return gradients


TRANSFORMS = {
    "vmap": lambda model: torch.func.vmap(model),
    "jacrev": lambda model: torch.func.jacrev(lambda x: model(x)),
    "jacfwd": lambda model: torch.func.jacfwd(lambda x: model(x)),
    "per-sample gradients": lambda model: per_sample(model),
}


@every_model
@ignore_deprecation
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_inside_of_a_compiled_function(make, transform):
    _, (model, _) = pair(make)
    fn, x = transform(model), batch(0, 3, 6)
    compiled = torch.compile(fn, backend="aot_eager")
    torch.testing.assert_close(compiled(x), fn(x), atol=1e-5, rtol=1e-4)


@ignore_deprecation
def test_a_script_raises_changes_nothing_and_names_the_way_out():
    _, (model, _) = pair(MODELS["mlp"])
    layers = list(model)
    problem = (
        r"^SparseLinear: TorchScript does not support this layer; call "
        r"sparsewright\.decompress\(copy\) on a copy of the model, and script the copy$"
    )
    with pytest.raises(AttachError, match=problem):
        torch.jit.script(model)
    assert all(one is other for one, other in zip(model, layers, strict=True))


@ignore_deprecation
def test_an_onnx_export_raises_and_names_the_way_out():
    _, (model, _) = pair(MODELS["mlp"])
    legacy = {"dynamo": False} if TORCH >= (2, 5) else {}
    problem = (
        r"SparseLinear: ONNX does not support this layer; call "
        r"sparsewright\.decompress\(copy\) on a copy of the model, and export the copy"
    )
    with pytest.raises(AttachError, match=problem):
        torch.onnx.export(model, (batch(0, 3, 6),), io.BytesIO(), **legacy)


@every_model
def test_the_way_out_leaves_the_model_compressed_and_training(make):
    _, (model, sparsity) = pair(make)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    dense = copy.deepcopy(model)
    sparse.decompress(dense)
    x = batch(0, 3, 6)
    torch.testing.assert_close(dense(x), model(x))
    assert {type(m) for m in dense.modules() if hasattr(m, "weight")} == {nn.Linear}
    assert all(p.is_compressed for p in sparsity.sparse_params.values())
    before = model(x).detach()
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model(x), before)
