"""Tests of single parameters, lazy and meta weights, `remove`, and `apply(optimizer)`."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import UserDefined, assert_pruned, backward, kept_of, make_mlp, train
from sparsewright.errors import AttachError, OptionTypeError

ALGORITHMS = {
    "static": lambda: sparse.Static(0.5),
    "gmp": lambda: sparse.GMP([0.1, 0.5], update=2),
    "set": lambda: sparse.SET(sparsity=0.5, update=2),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=1),
    "group": lambda: sparse.configure({"algorithm": "rigl", "sparsity": 0.5}),
    "user": lambda: UserDefined(sparsity=0.5),
}


@pytest.mark.parametrize("from_root", [True, False])
def test_sparsify_parameter_takes_owner_or_root(from_root):
    model, sparsity = make_mlp(), sparse.Static(0.5)
    module = model if from_root else model[2]
    sparsity.sparsify_parameter(module, "2.weight", model[2].weight)
    assert list(sparsity.sparse_params) == ["2.weight"]
    assert sparsity.sparse_params["2.weight"].module is model[2]
    assert model[2].weight.all()
    model(torch.randn(2, 8))
    assert kept_of(sparsity) == {"2.weight": 32}
    assert_pruned(sparsity)


def test_sparsify_parameter_refuses_strangers():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    for module, param in ((model[0], model[2].weight), (model, nn.Parameter(torch.ones(2, 2)))):
        text = r"2.weight: it is not a parameter of the given (Linear|Sequen)"
        with pytest.raises(AttachError, match=text):
            sparsity.sparsify_parameter(module, "2.weight", param)
    with pytest.raises(AttachError, match=r"2.bias: it is not a parameter of the given"):
        sparsity.sparsify_parameter(model, "2.bias", model[2].weight)


def test_sparsify_module_waits_for_the_first_forward():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.sparsify_module(model)
    assert model[0].weight.all()
    model(torch.randn(2, 8))
    assert kept_of(sparsity) == {"0.weight": 64, "2.weight": 32}
    assert not model._forward_pre_hooks
    assert not model[0]._forward_pre_hooks


def test_initialize_is_idempotent():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparsity.initialize()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("make", [lambda: sparse.Static(0.5), lambda: sparse.configure(0.5)])
def test_lazy_parameters_raise_and_say_what_to_do(make):
    model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(4))
    text = r"1.weight: it is lazy and has no shape yet; run one forward pass first"
    with pytest.raises(AttachError, match=text):
        make().apply(model)
    assert "0.weight_mask" not in model.state_dict()
    model(torch.randn(2, 3))
    sparsity = make()
    sparsity.apply(model)
    assert sparsity.num_sparse_params == 2


@pytest.mark.parametrize("make", [ALGORITHMS["static"], ALGORITHMS["rigl"], ALGORITHMS["group"]])
@pytest.mark.parametrize("way", ["reset", "load", "assign"])
def test_meta_parameters_get_their_masks_when_the_weights_arrive(make, way):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    sparsity = make()
    sparsity.apply(model)
    if way == "assign":
        model.load_state_dict(make_mlp().state_dict(), assign=True)
    else:
        model.to_empty(device="cpu")
        if way == "load":
            model.load_state_dict(make_mlp().state_dict())
        else:
            model[0].reset_parameters(), model[2].reset_parameters()
            # `to_empty` leaves arbitrary values in a mask.
            model[0].weight_mask.fill_(False), model[2].weight_mask.fill_(False)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    model(torch.randn(2, 8))
    assert kept_of(sparsity) == {"0.weight": 64, "2.weight": 32}
    assert_pruned(sparsity)
    assert [int(model[i].weight.count_nonzero()) for i in (0, 2)] == [64, 32]
    train(model, optimizer, 3)
    assert_pruned(sparsity, optimizer)


def hooks_of(model):
    """Return all hook lists and attribute names of a model and its parameters."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[f"{name}.{key}"] = sorted(map(str, value)) if "hooks" in key else None
        found[f"{name} buffers"] = list(module._buffers)
        found[f"{name} non-persistent"] = sorted(module._non_persistent_buffers_set)
    for name, param in model.named_parameters():
        found[f"{name} backward"] = list(param._backward_hooks or ())
        found[f"{name} accumulated"] = list(param._post_accumulate_grad_hooks or ())
        found[f"{name} attributes"] = sorted(vars(param))
    return found


def optimizer_hooks_of(optimizer):
    return {
        key: list(value)
        for key, value in vars(optimizer).items()
        if "hooks" in key and isinstance(value, dict)
    }


@pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS)
@pytest.mark.parametrize("steps", [0, 3])
def test_remove_restores_keys_and_hook_lists_exactly(make, steps):
    model = make_mlp()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    model.register_forward_pre_hook(lambda module, args: None)
    model[0].weight.register_hook(lambda grad: None)
    optimizer.register_step_post_hook(lambda *args: None)
    keys, hooks, steps_hooks = (
        list(model.state_dict()),
        hooks_of(model),
        optimizer_hooks_of(optimizer),
    )
    sparsity = make()
    sparsity.apply(model)
    sparsity.apply(optimizer)
    assert hooks_of(model) != hooks
    assert optimizer_hooks_of(optimizer) != steps_hooks
    train(model, optimizer, steps)
    zeros = model[0].weight == 0
    sparsity.remove()
    assert list(model.state_dict()) == keys
    assert hooks_of(model) == hooks
    assert optimizer_hooks_of(optimizer) == steps_hooks
    assert sparsity.num_sparse_params == 0
    assert torch.equal(model[0].weight == 0, zeros)
    assert zeros.sum() >= 12
    step = sparsity.step
    train(model, optimizer, 2)
    # Dead units keep a gradient of zero; all other gradients become nonzero again.
    alive = model[0].weight.grad.any(dim=1)
    assert alive.sum() >= 8
    assert model[0].weight[alive].all()
    assert sparsity.step == step
    sparsity.remove()


def test_a_model_can_be_sparsified_again_after_remove():
    model, first, second = make_mlp(), sparse.Static(0.5), sparse.Static(0.75)
    first.apply(model)
    first.remove()
    second.apply(model)
    assert kept_of(second) == {"0.weight": 32, "2.weight": 16}
    first.apply(make_mlp())
    assert first.num_sparse_params == 2


@pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_weight_parametrized_after_apply_is_named_and_the_rest_can_be_taken_off(make):
    model, sparsity = make_mlp(), make()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(model)
    sparsity.apply(optimizer)
    torch.nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(
        AttachError,
        match=r"^weight: it is no longer a Parameter of its ParametrizedLinear; "
        r"register parametrizations before apply\(model\)$",
    ):
        train(model, optimizer, 1)
    sparsity.remove()
    assert set(model.state_dict()) == {
        *(f"0.parametrizations.weight.original{i}" for i in (0, 1)),
        *("0.bias", "2.weight", "2.bias"),
    }
    train(model, optimizer, 1)


def test_get_sparse_params():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = SGD([model[2].weight, model[0].bias], 0.1)
    assert sparsity.get_sparse_params(model[0].weight) is sparsity.sparse_params["0.weight"]
    assert sparsity.get_sparse_params(model[0].bias) is None
    assert sparsity.get_sparse_params(model[0].weight.clone()) is None
    assert [p.name for p in sparsity.get_sparse_params(model)] == ["0.weight", "2.weight"]
    assert [p.name for p in sparsity.get_sparse_params(model[0])] == ["0.weight"]
    found = sparsity.get_sparse_params(optimizer)
    assert iter(found) is found
    assert [p.name for p in found] == ["2.weight"]
    with pytest.raises(
        OptionTypeError,
        match=r"^the argument of get_sparse_params must be .*; got '0.weight' \(str\)\.$",
    ):
        sparsity.get_sparse_params("0.weight")


def test_updating_by_hand_works_with_and_without_an_optimizer():
    """FIX: `update` works without an optimizer."""
    model = make_mlp()
    sparsity = sparse.SET(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = torch.optim.Adamax(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    sparsity.autoupdate = False
    for step, given in enumerate((None, optimizer, None)):
        backward(model, step)
        optimizer.step()
        sparsity.update(given)
        assert_pruned(sparsity, optimizer)
    assert sparsity.step == 3
    other = sparse.Static(0.5)
    other.apply(lonely := make_mlp())
    with torch.no_grad():
        lonely[0].weight.fill_(1)
    other.update()
    assert other.step == 1
    assert_pruned(other)


def in_new_process(program):
    """Run a program in a fresh Python process and return its output."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_compat_gives_optimizers_apply_and_takes_it_back():
    printed = in_new_process("""
import torch, sparsewright as sparse
from torch.optim import Optimizer
import sparsewright.compat as compat
layer = torch.nn.Linear(4, 4)
sparsity = sparse.Static(0.5)
layer.apply(sparsity)
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
print(optimizer.apply(sparsity) is optimizer)
optimizer.step()
print(sparsity.step)
for _ in range(2):
    compat.uninstall()
    print(hasattr(Optimizer, "apply"))
compat.install()
print(optimizer.apply(lambda given: None) is optimizer)
""")
    assert printed == ["True", "1", "False", "False", "True"]


def test_importing_the_library_does_not_change_torch():
    printed = in_new_process("""
import torch, sparsewright
print(hasattr(torch.optim.Optimizer, "apply"), torch.nn.Module.apply.__module__)
""")
    assert printed == ["False", "torch.nn.modules.module"]
