"""Tests that every kind of compressed layer trains like the masked layer."""

import copy
import io

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import assert_same, batch
from sparsewright.layers import KINDS, kind_of

# A dense layer and its input shape, also for layers that have no compressed kind yet.
EXAMPLES = {
    nn.Linear: (lambda: nn.Linear(8, 16), (5, 8)),
    nn.Conv1d: (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    nn.Conv2d: (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    nn.Conv3d: (lambda: nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
    nn.ConvTranspose2d: (lambda: nn.ConvTranspose2d(4, 6, 2), (2, 4, 5, 5)),
    nn.Bilinear: (lambda: nn.Bilinear(4, 4, 6), (5, 4)),
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.dense.__name__)
RIGL = {"algorithm": "rigl", "sparsity": 0.5, "update": 2, "drop_fraction": 0.4}


def make(kind):
    """Build a model with one layer of a kind's dense class; return it and its input shape."""
    layer, shape = EXAMPLES[kind.dense]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(layer(), nn.Tanh()), shape


def attach(kind, storage, **config):
    model, shape = make(kind)
    sparsity = sparse.configure({**RIGL, "storage": storage, **config})
    sparsity.apply(model)
    params = [p for name, p in model.named_parameters() if "mask" not in name]
    optimizer = torch.optim.AdamW(params, 0.01, weight_decay=0.1)
    sparsity.apply(optimizer)
    return model, sparsity, optimizer, shape


def train(model, optimizer, shape, steps, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        for micro in range(2):
            model(batch(10 * step + micro, *shape)).pow(2).mean().backward()
        optimizer.step()


def close(first, second):
    assert list(first) == list(second)
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-5, atol=1e-6, msg=key)


@every_kind
@pytest.mark.parametrize("algorithm", ["rigl", "set", "static"])
def test_trains_as_its_masked_layer(kind, algorithm):
    runs = {}
    for storage in ("masked", "compressed"):
        options = {**RIGL, "algorithm": algorithm}
        if algorithm == "static":
            options = {"algorithm": "static", "sparsity": 0.5}
        model, shape = make(kind)
        sparsity = sparse.configure({**options, "storage": storage})
        sparsity.apply(model)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
        sparsity.apply(optimizer)
        train(model, optimizer, shape, 7)
        runs[storage] = model.state_dict()
        assert {p.storage.name for p in sparsity.sparse_params.values()} == {storage}
    close(runs["masked"], runs["compressed"])


@every_kind
def test_only_live_values_are_stored_and_stepped(kind):
    model, sparsity, optimizer, shape = attach(kind, "compressed")
    train(model, optimizer, shape, 3)
    ((name, parameter),) = sparsity.sparse_params.items()
    kept, total = int(parameter.mask.sum()), parameter.shape.numel()
    assert parameter.param.shape == parameter.param.grad.shape == (kept,)
    assert kept < total
    assert optimizer.state[parameter.param]["exp_avg"].shape == (kept,)
    assert model[0].weight.shape == parameter.shape
    cost = kind.cost(parameter.shape, kept, torch.float32)
    assert cost.value_bytes == 4 * kept
    assert cost.index_bytes > 0
    assert cost.flops > 0
    assert kind_of(model[0]) is kind
    assert name == "0.weight"


@every_kind
def test_checkpoints_are_those_of_the_masked_layer(kind):
    model, sparsity, optimizer, shape = attach(kind, "compressed")
    train(model, optimizer, shape, 3)
    masked, other, *_ = attach(kind, "masked")
    assert list(model.state_dict()) == list(masked.state_dict())
    masked.load_state_dict(model.state_dict())
    assert_same(masked.state_dict(), model.state_dict())
    fresh = attach(kind, "compressed")[0]
    fresh.load_state_dict(masked.state_dict())
    assert_same(fresh.state_dict(), model.state_dict())
    x = batch(0, *shape)
    torch.testing.assert_close(fresh(x), masked(x))
    assert sparsity.step == 3
    assert other.num_sparse_params == 1


@every_kind
def test_a_sparse_bias_next_to_a_compressed_weight_is_saved_and_resumed(kind):
    model, sparsity, optimizer, shape = attach(kind, "compressed", param_filter="*")
    assert {p.storage.name for p in sparsity.sparse_params.values()} == {"compressed", "masked"}
    train(model, optimizer, shape, 3)
    states = copy.deepcopy([each.state_dict() for each in (model, optimizer, sparsity)])
    assert torch.equal(states[0]["0.bias_mask"], sparsity.sparse_params["0.bias"].mask)
    again, resumed, other, _ = attach(kind, "compressed", param_filter="*", seed=1)
    assert not torch.equal(again.state_dict()["0.bias_mask"], states[0]["0.bias_mask"])
    for each, state in zip((again, other, resumed), states, strict=True):
        each.load_state_dict(state)
    assert_same(again.state_dict(), states[0])
    resumed.seed = sparsity.seed
    train(model, optimizer, shape, 3, start=3)
    train(again, other, shape, 3, start=3)
    assert_same(again.state_dict(), model.state_dict())
    sparse.decompress(model)
    assert_same(dict(sorted(model.state_dict().items())), dict(sorted(again.state_dict().items())))
    sparse.compress(model, verbose=False)
    assert_same(dict(sorted(model.state_dict().items())), dict(sorted(again.state_dict().items())))


@every_kind
def test_goes_back_and_forth_in_the_middle_of_a_run(kind):
    reference, _, straight, shape = attach(kind, "masked")
    model, sparsity, optimizer, _ = attach(kind, "masked")
    train(reference, straight, shape, 9)
    train(model, optimizer, shape, 3)
    layer, param = model[0], model[0].weight
    sparse.compress(model, verbose=False)
    assert model[0] is not layer
    assert model[0].values is param
    train(model, optimizer, shape, 3, start=3)
    sparse.decompress(model)
    assert type(model[0]) is kind.dense
    assert model[0].weight is param
    train(model, optimizer, shape, 3, start=6)
    close(model.state_dict(), reference.state_dict())
    assert sparsity.step == 9


@every_kind
def test_copies_pickles_and_removal(kind):
    model, sparsity, optimizer, shape = attach(kind, "compressed")
    train(model, optimizer, shape, 2)
    x = batch(0, *shape)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert other[0].tap is None
        other(x).sum().backward()
    before = model(x)
    sparsity.remove()
    assert type(model[0]) is kind.dense
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == set(make(kind)[0].state_dict())
    train(model, optimizer, shape, 2)


@every_kind
def test_gradients_of_frozen_and_unused_layers(kind):
    model, sparsity, optimizer, shape = attach(kind, "compressed")
    model[0].values.requires_grad_(False)
    x = batch(0, *shape).requires_grad_()
    model(x).sum().backward()
    assert x.grad.any()
    optimizer.step()
    assert sparsity.step == 1


@every_kind
def test_a_subclass_stays_masked(kind):
    class Mine(kind.dense):
        """A user-defined layer class."""

    model, _ = make(kind)
    model[0].__class__ = Mine
    sparsity = sparse.configure({**RIGL, "storage": "compressed"})
    sparsity.apply(model)
    (parameter,) = sparsity.sparse_params.values()
    assert parameter.storage.name == "masked"
