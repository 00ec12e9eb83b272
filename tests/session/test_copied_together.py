"""Copies of algorithms, alone and together with their models."""

import copy
import warnings

import pytest
from torch.optim import Adam

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train
from sparsewright.errors import SparsityWarning

MAKE = {
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "group": lambda: sparse.Group({"*.weight": sparse.SET(sparsity=0.5, update=2)}),
    "compressed": lambda: sparse.Static(0.5, storage="compressed"),
}


def trained(make):
    model, sparsity = make_mlp(), make()
    sparsity.apply(model)
    optimizer = Adam(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    return model, sparsity, optimizer


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_copy_with_its_model_says_that_it_is_attached_to_nothing(make):
    run = trained(make)
    text = r"was copied together with its model; .* call apply\(\) of the copied algorithm"
    with pytest.warns(SparsityWarning, match=text) as told:
        model, sparsity, optimizer = copy.deepcopy(run)
    assert len(told) == 1
    sparsity.apply(model)
    sparsity.apply(optimizer)
    train(model, optimizer, 4)
    assert [p.kept for p in sparsity.sparse_params.values()] == [64, 32]
    assert (sparsity[0] if isinstance(sparsity, sparse.Group) else sparsity).step == 7
    assert not sparsity.sparse_params.keys() ^ run[1].sparse_params.keys()
    if sparsity.session.parameters["0.weight"].storage.name != "compressed":
        assert_pruned(sparsity, optimizer)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_nothing_is_said_of_a_copy_without_a_model_nor_of_a_model_without_one(make):
    model, sparsity, _ = trained(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(sparsity)
        copy.deepcopy(model)
        copy.deepcopy([sparsity, make_mlp()])
