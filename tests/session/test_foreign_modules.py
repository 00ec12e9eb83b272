"""Modules from other parts of PyTorch: which can be sparse, and the errors for the others."""

import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim import SGD

import sparsewright as sparse
from helpers.named import Named
from helpers.support import assert_pruned, assert_same, batch, make_mlp, train
from sparsewright.errors import AttachError, SparsityWarning

MAKE = {
    "bare": lambda: sparse.Static(0.5),
    "named": lambda: sparse.Group({"*": sparse.SET(sparsity=0.5, update=1)}),
    "configured": lambda: sparse.configure({"algorithm": "rigl", "sparsity": 0.5, "update": 1}),
    "compressed": lambda: sparse.Static(0.5, storage="compressed"),
    "shadowed": lambda: sparse.STE(0.5),
}
every_route = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def scripted():
    return torch.jit.script(make_mlp())


def traced():
    return torch.jit.trace(make_mlp(), torch.ones(1, 8))


def loaded(tmp_path):
    scripted().save(tmp_path / "module.pt")
    return torch.jit.load(tmp_path / "module.pt")


def assert_refused(model, algorithm, message):
    """Check that `apply` raises and leaves the model unchanged."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(AttachError, match=message):
        algorithm.apply(model)
    assert_same(dict(model.state_dict()), before)
    assert not algorithm.sparse_params
    assert algorithm.session.is_empty


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@every_route
def test_torchscript_modules_are_refused_by_name_of_their_kind(make, tmp_path):
    kinds = {"Recursive": scripted(), "TopLevelTraced": traced(), "Rec": loaded(tmp_path)}
    for kind, model in kinds.items():
        x = batch(0, 3, 8)
        before = model(x)
        text = rf"^{kind}\w*Module: TorchScript modules cannot have masks; pass the original"
        assert_refused(model, make(), text)
        assert torch.equal(model(x), before)
        holder = nn.Sequential(nn.Linear(8, 8), model)
        assert_refused(holder, make(), r"1.0.weight: TorchScript modules cannot have masks;")
    frozen = torch.jit.freeze(scripted().eval())
    assert_refused(frozen, make(), r"RecursiveScriptModule: TorchScript modules cannot")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_modules_that_stay_dense_are_no_matter():
    frozen = torch.jit.script(make_mlp().requires_grad_(False))
    model = nn.Sequential(nn.Linear(8, 8), frozen)
    algorithm = sparse.SET(sparsity=0.5, update=1)
    algorithm.apply(model)
    assert list(algorithm.sparse_params) == ["0.weight"]
    optimizer = SGD(model[0].parameters(), 0.1)
    algorithm.apply(optimizer)
    train(model, optimizer, 3)
    assert_pruned(algorithm, optimizer)
    trainable = nn.Sequential(nn.Linear(8, 8), scripted())
    sparse.Group({"0.*": sparse.Static(0.5)}).apply(trainable)


def exported():
    return torch.export.export(make_mlp(), (torch.ones(5, 8),))


GRAPHS = {
    "traced by fx": lambda: torch.fx.symbolic_trace(make_mlp()),
    "exported": lambda: exported().module(),
    "unflattened": lambda: torch.export.unflatten(exported()),
}


@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")  # a warning from PyTorch's own code
@every_route
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_graph_modules_train(graph, make):
    model, algorithm = graph(), make()
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    before = model(batch(1, 5, 8))
    train(model, optimizer, 3)
    assert not torch.equal(model(batch(1, 5, 8)), before)
    assert {"0.weight", "2.weight"} <= set(algorithm.sparse_params)
    for parameter in algorithm.sparse_params.values():
        assert parameter.is_compressed or not parameter.param[~parameter.mask].any()


def test_replicas_of_data_parallelism_have_no_parameters():
    model = make_mlp()
    for module in model.modules():  # like the replicas of torch.nn.parallel.replicate
        for name, param in list(module._parameters.items()):
            if param is not None:
                module._parameters[name] = None
                del module._parameters[name]
                setattr(module, name, param.detach().clone())
    with pytest.warns(SparsityWarning, match="no parameter was sparsified; available: none"):
        sparse.Static(0.5).apply(model)


LAZY = {
    "linear": lambda: nn.LazyLinear(4),
    "convolution": lambda: nn.LazyConv2d(4, 3),
    "in a block": lambda: Named(a=nn.LazyLinear(4)),
}


@pytest.mark.parametrize("layer", LAZY.values(), ids=LAZY)
def test_lazy_modules_need_a_forward_pass(layer):
    model = nn.Sequential(nn.Linear(8, 8), layer())
    with pytest.raises(AttachError, match=r"weight: it is lazy and has no shape yet; run one"):
        sparse.Static(0.5).apply(model)
    assert "0.weight_mask" not in model.state_dict()


def pruned_by_torch(method):
    model = make_mlp()
    method(model)
    return model


PRUNED = {
    "l1": lambda model: prune.l1_unstructured(model[0], "weight", 0.5),
    "random": lambda model: prune.random_unstructured(model[0], "weight", 3),
    "rows": lambda model: prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0),
    "mask": lambda model: prune.custom_from_mask(
        model[0], "weight", torch.ones_like(model[0].weight)
    ),
    "twice": lambda model: [prune.l1_unstructured(model[0], "weight", 0.5) for _ in range(2)],
    "global": lambda model: prune.global_unstructured(
        [(model[0], "weight"), (model[2], "weight")], prune.L1Unstructured, amount=0.5
    ),
}


@every_route
@pytest.mark.parametrize("method", PRUNED.values(), ids=PRUNED)
def test_what_torch_prunes_is_refused_until_it_is_made_permanent(method, make):
    model = pruned_by_torch(method)
    call = r"torch.nn.utils.prune.remove\(module, 'weight'\) first"
    assert_refused(model, make(), rf"0.weight_orig: torch.nn.utils.prune already masks it.*{call}")
    for layer in (model[0], model[2]):
        if hasattr(layer, "weight_orig"):
            prune.remove(layer, "weight")
    algorithm = make()
    algorithm.apply(model)
    parameter = algorithm.sparse_params["0.weight"]
    assert parameter.computed_sparsity == 0.5


def test_a_bias_that_torch_prunes_is_no_matter():
    model = make_mlp()
    prune.random_unstructured(model[0], "bias", 3)
    algorithm = sparse.Static(0.5)
    algorithm.apply(model)
    assert list(algorithm.sparse_params) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("make", [sparse.Static, lambda level: sparse.RigL(sparsity=level)])
def test_a_frozen_teacher_teaches_what_it_did(make):
    model = Named(student=make_mlp(), teacher=make_mlp(1).requires_grad_(False))
    x = batch(0, 5, 8)
    taught, algorithm = model.teacher(x), make(0.9)
    algorithm.apply(model)
    optimizer = SGD(model.student.parameters(), 0.1)
    algorithm.apply(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        (model.student(x) - model.teacher(x)).square().mean().backward()
        optimizer.step()
    assert torch.equal(model.teacher(x), taught)
    assert list(algorithm.sparse_params) == ["student.0.weight", "student.2.weight"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_masked_model_can_be_scripted():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert list(loaded.state_dict()) == list(model.state_dict())
    x = torch.ones(2, 8)
    assert torch.equal(loaded(x), model(x))
