"""STE compared with a plain straight-through estimator, and guarantees of shadowed storage."""

import copy
import io

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import assert_same, batch, make_mlp, train
from sparsewright.errors import OptionError, StateError

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda params: torch.optim.AdamW(params, 0.01, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, 0.01, momentum=0.5),
}
STRUCTURES = {"unstructured": None, "2:4": "2:4", "groups": {"type": "groups", "inputs": 2}}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Masked(nn.Module):
    """A layer `x (w * mask)ᵀ + b` with a dense w, whose gradient is taken at the masked weight."""

    def __init__(self, linear, structure, level):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.structure, self.level = structure, level
        self.choose()

    def choose(self):
        self.mask = self.structure.topk(self.weight.detach().abs(), self.level)

    def forward(self, x):
        pruned = torch.where(self.mask, self.weight.detach(), 0)
        return nn.functional.linear(x, pruned + (self.weight - self.weight.detach()), self.bias)


def straight_through(structure, level, make, steps, freq):
    """Return the reference's masked weights after each step, and its dense weights at the end."""
    mlp = make_mlp()
    layers = [Masked(mlp[i], sparse.structures.make_structure(structure), level) for i in (0, 2)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer, seen = make(model.parameters()), []
    for step in range(steps):
        optimizer.zero_grad()
        model(batch(step, 5, 8)).pow(2).mean().backward()
        optimizer.step()
        if (step + 1) % freq == 0:
            for layer in layers:
                layer.choose()
        seen.append([torch.where(layer.mask, layer.weight.detach(), 0) for layer in layers])
    return seen, [layer.weight.detach() for layer in layers]


def attached(structure, make, freq=1, **options):
    model = make_mlp()
    sparsity = sparse.STE(0.5, update=freq, structure=structure, **options)
    sparsity.apply(model)
    optimizer = make(model.parameters())
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


@every_optimizer
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("freq", [1, 3])
@pytest.mark.parametrize("closure", [False, True])
def test_equals_the_straight_through_estimator_bit_for_bit(structure, make, freq, closure):
    expected, dense = straight_through(structure, 0.5, make, 8, freq)
    model, sparsity, optimizer = attached(structure, make, freq)
    for step in range(8):

        def loss(step=step):
            optimizer.zero_grad()
            value = model(batch(step, 5, 8)).pow(2).mean()
            value.backward()
            return value

        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()
        for layer, weight in zip((model[0], model[2]), expected[step], strict=True):
            assert torch.equal(layer.weight, weight), step
            assert not layer.weight[~layer.weight_mask].any()
    for parameter, weight in zip(sparsity.sparse_params.values(), dense, strict=True):
        assert torch.equal(parameter.storage.weight(), weight)


def test_pruned_connections_grow_back_with_what_they_were_given():
    model, sparsity, optimizer = attached(None, OPTIMIZERS["sgd"])
    events = []
    sparsity.register_mask_update_hook(events.append)
    train(model, optimizer, 6)
    assert sum(event.grown for event in events) > 0
    shadow = sparsity.shadows["0.weight"]
    assert shadow[~model[0].weight_mask].any()
    assert not shadow[model[0].weight_mask].any()


@every_optimizer
@pytest.mark.parametrize("order", ["model first", "algorithm first"])
def test_resumes_bit_for_bit(make, order):
    model, sparsity, optimizer = attached("2:4", make, freq=2)
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (model, optimizer, sparsity)], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert {key for key in saved[0] if "weight" in key} == {
        *("0.weight", "0.weight_mask", "2.weight", "2.weight_mask"),
    }
    assert not saved[0]["0.weight"][~saved[0]["0.weight_mask"]].any()
    train(model, optimizer, 5, start=3)
    again = attached("2:4", make, freq=2)
    pairs = list(zip((again[0], again[2], again[1]), saved, strict=True))
    for each, state in pairs if order == "model first" else pairs[::-1]:
        each.load_state_dict(state)
    train(again[0], again[2], 5, start=3)
    assert_same(model.state_dict(), again[0].state_dict())
    assert_same(optimizer.state_dict(), again[2].state_dict())
    assert_same(sparsity.state_dict(), again[1].state_dict())


def test_gradients_and_optimizer_state_are_dense():
    model, _, optimizer = attached(None, OPTIMIZERS["adamw"])
    train(model, optimizer, 3)
    mask = model[0].weight_mask
    assert model[0].weight.grad[~mask].any()
    assert optimizer.state[model[0].weight]["exp_avg"][~mask].any()


def test_copies_do_not_share_shadows():
    model, sparsity, optimizer = attached(None, OPTIMIZERS["sgd"])
    train(model, optimizer, 3)
    copied, before = copy.deepcopy(sparsity), sparsity.shadows["0.weight"].clone()
    assert torch.equal(copied.shadows["0.weight"], before)
    train(model, optimizer, 2, start=3)
    assert torch.equal(copied.shadows["0.weight"], before)
    assert not torch.equal(sparsity.shadows["0.weight"], before)


def test_remove_leaves_the_pruned_model():
    model, sparsity, optimizer = attached(None, OPTIMIZERS["sgd"])
    train(model, optimizer, 3)
    pruned = model[0].weight.detach().clone()
    sparsity.remove()
    assert torch.equal(model[0].weight, pruned)
    assert sparsity.shadows == {}
    assert set(model.state_dict()) == set(make_mlp().state_dict())


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_other_storages_are_refused(storage):
    with pytest.raises(OptionError, match=r"STE.*shadowed"):
        sparse.STE(0.5, storage=storage)
    with pytest.raises(OptionError, match=r"STE.*shadowed"):
        sparse.configure({"algorithm": "ste", "sparsity": 0.5, "storage": storage})


@pytest.mark.parametrize(
    ("shadows", "problem"),
    [
        (
            {"0.weight": torch.zeros(3)},
            r"expected a tensor of shape \(16, 8\) for '0.weight', got shape \(3,\)",
        ),
        ({"0.weight": [1.0]}, r"expected a tensor for '0.weight', got \[1.0\]"),
        ([], r"expected a dict, got \[\]"),
        ({0: torch.zeros(16, 8)}, r"expected a string as a name, got 0"),
    ],
)
def test_shadows_that_do_not_fit_are_refused_and_change_nothing(shadows, problem):
    model, sparsity, optimizer = attached(None, OPTIMIZERS["sgd"])
    train(model, optimizer, 2)
    before = copy.deepcopy(sparsity.state_dict())
    with pytest.raises(StateError, match=f"the shadows of STE: {problem}$"):
        sparsity.load_state_dict({**before, "shadows": shadows})
    assert_same(sparsity.state_dict(), before)


def test_resumes_bit_for_bit_from_a_state_loaded_before_apply():
    model, sparsity, optimizer = attached(None, OPTIMIZERS["adamw"])
    train(model, optimizer, 3)
    states = copy.deepcopy([each.state_dict() for each in (model, optimizer, sparsity)])
    train(model, optimizer, 3, start=3)
    again, other = make_mlp(), sparse.STE(0.5, update=1)
    other.load_state_dict(states[2])
    other.apply(again)
    resumed = OPTIMIZERS["adamw"](again.parameters())
    other.apply(resumed)
    again.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    train(again, resumed, 3, start=3)
    assert_same(model.state_dict(), again.state_dict())
    assert_same(sparsity.state_dict(), other.state_dict())


def test_two_models_have_shadows_of_their_own():
    models, sparsity = [make_mlp(0), make_mlp(1)], sparse.STE(0.5, update=1)
    for model in models:
        sparsity.apply(model)
    assert list(sparsity.sparse_params) == [
        *("0.weight", "2.weight", "0.weight#2", "2.weight#2"),
    ]
    assert set(sparsity.shadows) == set(sparsity.sparse_params)
    for model, seed in zip(models, (0, 1), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparsity.apply(optimizer)
        train(model, optimizer, 3)
        twin, alone = make_mlp(seed), sparse.STE(0.5, update=1)
        alone.apply(twin)
        plain = torch.optim.SGD(twin.parameters(), 0.1)
        alone.apply(plain)
        train(twin, plain, 3)
        assert_same(model.state_dict(), twin.state_dict())


def test_a_closure_that_raises_leaves_the_pruned_weights():
    model, sparsity, optimizer = attached(None, OPTIMIZERS["sgd"])
    train(model, optimizer, 2)
    before = model[0].weight.detach().clone()

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(model[0].weight, before)
    train(model, optimizer, 2, start=2)
    assert sparsity.step == 4


def test_a_compressed_layer_is_refused():
    model = nn.Sequential(sparse.nn.SparseLinear(8, 4, sparsity=0.5))
    sparsity = sparse.STE(0.5)
    with pytest.raises(
        sparse.errors.AttachError, match="it is compressed, but STE trains only shadowed weights"
    ):
        sparsity.apply(model)
    assert not sparsity.is_attached
