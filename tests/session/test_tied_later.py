"""Layers that are tied after `apply`."""

import pytest
from torch import nn
from torch.optim import Adam

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train

MAKE = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "shadowed": lambda: sparse.STE(0.5),
}


@pytest.mark.parametrize("keep", [2, 4])
@pytest.mark.parametrize("is_late", [True, False], ids=["optimizer first", "tied first"])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_weight_that_is_shared_later_has_one_mask(make, is_late, keep):
    model, sparsity = make_mlp(hidden=8), make()
    model.insert(2, nn.Linear(8, 8))
    model.insert(3, nn.Tanh())
    model.insert(4, nn.Linear(8, 8))
    sparsity.apply(model)
    if is_late:
        optimizer = Adam(model.parameters(), 0.01)
        sparsity.apply(optimizer)
        train(model, optimizer, 2)
    model[6 - keep].weight = model[keep].weight
    if not is_late:
        optimizer = Adam(model.parameters(), 0.01)
        sparsity.apply(optimizer)
    train(model, optimizer, 5)
    name = f"{keep}.weight"
    assert sorted(sparsity.sparse_params) == sorted(["0.weight", name, "5.weight"])
    assert sparsity.sparse_params[name].kept == 32
    assert int((model[keep].weight_mask & (model[keep].weight != 0)).sum()) == 32
    assert_pruned(sparsity, optimizer)
    model[6 - keep].load_state_dict(nn.Linear(8, 8).state_dict(), strict=False)
    assert_pruned(sparsity, optimizer)
