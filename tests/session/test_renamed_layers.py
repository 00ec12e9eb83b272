"""Layers that move within their model before `apply` is called again."""

import warnings

import pytest
from torch import nn
from torch.optim import Adam

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train

MAKE = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "global": lambda: sparse.GMP(
        sparsity={"type": "linear", "init": 0.3, "slope": 0.05}, update=2, distribution="global"
    ),
    "group": lambda: sparse.Group({"*.weight": sparse.SET(sparsity=0.5, update=2)}),
}


def insert(model):
    model.insert(0, nn.Linear(8, 8))


def replace_and_move(model):
    model[1], model[3] = nn.Linear(16, 16), model[2]
    model[2] = nn.Tanh()


def pop(model):
    model[1] = nn.Tanh()
    del model[2:4]


CHANGES = {
    "insert": (insert, lambda model: None, ["0.weight", "1.weight", "3.weight"]),
    "move": (
        replace_and_move,
        lambda model: model.append(nn.Identity()),
        ["0.weight", "1.weight", "3.weight"],
    ),
    "pop": (
        pop,
        lambda model: (model.insert(2, nn.Linear(16, 16)), model.insert(3, nn.ReLU())),
        ["0.weight", "2.weight"],
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_weights_have_the_names_that_they_have_in_the_model(make, change):
    change, prepare, names = change
    model, sparsity = make_mlp(), make()
    prepare(model)
    sparsity.apply(model)
    optimizer = Adam(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsity.apply(model)
    optimizer = Adam(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 4)
    assert sorted(sparsity.sparse_params) == names
    for name, parameter in sparsity.sparse_params.items():
        assert parameter.param is model.get_parameter(name)
    assert_pruned(sparsity, optimizer)
    sparsity.remove()
    assert not [key for key in model.state_dict() if key.endswith("_mask")]
