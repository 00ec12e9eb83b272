"""Layers whose Parameter is replaced by a Parameter of another shape (added or removed neurons)."""

import pytest
import torch
from torch import nn
from torch.optim import Adam

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train
from sparsewright.errors import AttachError

MAKE = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "shadowed": lambda: sparse.STE(0.5),
    "group": lambda: sparse.Group({"*.weight": sparse.SET(sparsity=0.5, update=2)}),
}


def widen(model):
    model[0].weight, model[0].bias = nn.Parameter(torch.randn(20, 8)), nn.Parameter(torch.zeros(20))
    model[2].weight = nn.Parameter(torch.randn(4, 20))


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_resized_weight_gets_a_mask_of_its_own_when_it_is_applied(make, is_trained):
    model, sparsity = make_mlp(), make()
    sparsity.apply(model)
    if is_trained:
        optimizer = Adam(model.parameters(), 0.01)
        sparsity.apply(optimizer)
        train(model, optimizer, 3)
    widen(model)
    sparsity.apply(model)
    optimizer = Adam(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 4)
    assert [p.kept for p in sparsity.sparse_params.values()] == [80, 40]
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    assert_pruned(sparsity, optimizer)


def test_a_resized_weight_that_is_not_applied_is_named():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    widen(model)
    text = r"0\.weight: it was replaced by a Parameter of shape \(20, 8\); call apply\(model\) to"
    with pytest.raises(AttachError, match=text):
        sparsity.apply(Adam(model.parameters()))
    sparsity.remove()
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
