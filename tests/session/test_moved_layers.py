"""Layers that are replaced, moved, tied or removed, and new models."""

import gc
import logging
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD

import sparsewright as sparse
from helpers.lives import MAKE, assert_sparse, masks
from helpers.support import backward, make_mlp, train
from sparsewright.errors import AttachError, SparsityWarning


class Fake(nn.Linear):
    """A layer that replaces a linear layer and holds the same Parameters."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("make", [MAKE[name] for name in ("static", "rigl", "group", "shadowed")])
def test_a_replaced_layer_with_the_same_weight_is_followed(make, is_held):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    before, held = masks(model), [model[0]] if is_held else []
    model[0] = Fake(model[0])
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    assert list(masks(model)) == list(before)
    assert torch.equal(masks(model)["0.weight_mask"], before["0.weight_mask"])
    assert not any("weight_mask" in dict(layer.named_buffers()) for layer in held)
    train(model, optimizer, 4)
    assert_sparse(sparsity, optimizer)
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    loaded = make_mlp(seed=5).state_dict()
    model.load_state_dict(loaded, strict=False)
    assert_sparse(sparsity, optimizer)


def test_a_layer_that_is_replaced_while_training_is_followed():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    model[2] = Fake(model[2])
    sparsity.apply(SGD(model.parameters(), 0.1))
    assert list(masks(model)) == ["0.weight_mask", "2.weight_mask"]


@pytest.mark.parametrize("steps", [None, 0, 1, 2])
def test_a_weight_that_moves_into_a_parametrization_is_followed(steps):
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    if steps is None:
        parametrizations.spectral_norm(model[0])
        sparsity.apply(optimizer)
    else:
        sparsity.apply(optimizer)
        train(model, optimizer, steps)
        parametrizations.spectral_norm(model[0])
    train(model, optimizer, 4)
    assert sparsity.step == 4 + (steps or 0)
    assert_sparse(sparsity, optimizer)
    assert "0.parametrizations.weight.original_mask" in model.state_dict()


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_new_head_takes_the_place_of_the_old_one(make):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    old = model[2]
    model[2] = nn.Linear(16, 8)
    sparsity.apply(model)  # without a warning: it sparsified the new head
    assert {name: p.shape[0] for name, p in sparsity.sparse_params.items()} == {
        "0.weight": 16,
        "2.weight": 8,
    }
    if not isinstance(old, sparse.nn.SparseLinear):
        assert "weight_mask" not in old.state_dict()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    assert_sparse(sparsity, optimizer)
    with pytest.warns(SparsityWarning, match=r"unchanged: 0\.weight, 2\.weight$"):
        sparsity.apply(model)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_new_model_lets_the_old_one_go(make):
    sparsity, alive, found = make(0.5), [], []
    for _ in range(3):
        model = make_mlp()
        sparsity.apply(model)
        optimizer = SGD(model.parameters(), 0.1)
        sparsity.apply(optimizer)
        assert sparsity.step == 0
        assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
        found.append(masks(model))
        train(model, optimizer, 3)
        assert_sparse(sparsity, optimizer)
        alive.append(weakref.ref(model))
    gc.collect()
    assert [each() is not None for each in alive] == [False, False, True]
    assert all(torch.equal(found[0][key], found[2][key]) for key in found[0])


def test_parts_of_a_model_that_was_put_together_for_apply_stay():
    actor, critic, sparsity = make_mlp(1), make_mlp(2), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(nn.ModuleList([actor, critic]))
    gc.collect()
    sparsity.apply(make_mlp(3))
    assert [*masks(actor), *masks(critic)] == ["0.weight_mask", "2.weight_mask"] * 2
    optimizer = SGD([*actor.parameters(), *critic.parameters()], 0.1)
    sparsity.apply(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        backward(actor, step)
        backward(critic, step)
        optimizer.step()
    assert not actor[0].weight[~actor[0].weight_mask].any()
    assert not critic[2].weight[~critic[2].weight_mask].any()


class Shared(nn.Module):
    def __init__(self, weight=None):
        super().__init__()
        self.encoder, self.out = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)
        if weight is not None:
            self.encoder.weight = weight

    def forward(self, x):
        return self.out(self.encoder(x))


def test_a_weight_of_two_models_has_one_mask():
    actor = Shared()
    critic, sparsity = Shared(actor.encoder.weight), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(actor)
    sparsity.apply(critic)
    assert list(sparsity.sparse_params) == ["encoder.weight", "out.weight", "out.weight#2"]
    assert int((actor.encoder.weight == 0).sum()) == 32
    critic.load_state_dict(Shared().state_dict())
    assert int((actor.encoder.weight == 0).sum()) == 32
    with pytest.raises(AttachError, match=r"encoder.weight: RigL already sparsifies it"):
        sparse.Static(0.5).apply(Shared(actor.encoder.weight))


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_head_that_is_gone_is_no_longer_counted(make):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    del model[2]
    assert list(sparsity.sparse_params) == ["0.weight"]
    model.append(nn.Linear(16, 4))
    train(model, optimizer, 3)
    assert_sparse(sparsity, optimizer)


def test_what_is_let_go_is_logged(caplog):
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    model[2] = nn.Linear(16, 3)
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparsity.apply(model)
    assert "2.weight is no longer sparse because it left the model" in caplog.messages
