"""Tests of sparse parameters: weight, mask, gradient and optimizer states."""

import pytest
import torch
from torch.optim import Adam

import sparsewright as sparse
from helpers.support import assert_pruned, kept_of, make_mlp, train
from sparsewright.errors import OptionTypeError, ShapeError


def test_sparse_params_are_what_api_says():
    model, sparsity = make_mlp(), sparse.Static(0.75)
    sparsity.apply(model)
    parameter = sparsity.sparse_params["0.weight"]
    assert isinstance(parameter, sparse.SparseParameter)
    assert parameter.name == "0.weight"
    assert parameter.module is model[0]
    assert parameter.param is parameter.data is model[0].weight
    assert parameter.mask is model[0].weight_mask
    assert parameter.annotations == {"min_sparsity": 0.75, "max_sparsity": 0.75, "sparsity": 0.75}
    parameter.annotate("note", 3)
    assert parameter.annotations["note"] == 3
    assert repr(parameter) == (
        "<SparseParameter '0.weight' 16x8, kept 32 of 128 (level 0.7500), masked>"
    )
    assert list(model.state_dict()) == [
        "0.weight",
        "0.bias",
        "0.weight_mask",
        "2.weight",
        "2.bias",
        "2.weight_mask",
    ]


def test_setting_a_mask_prunes_all_that_follows():
    model, sparsity = make_mlp(), sparse.Static(0.0)
    sparsity.apply(model)
    optimizer = Adam(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 2)
    parameter = sparsity.sparse_params["0.weight"]
    buffer = parameter.mask
    parameter.mask = torch.eye(16, 8, dtype=torch.bool)
    assert parameter.mask is buffer
    assert kept_of(sparsity)["0.weight"] == 8
    assert_pruned(sparsity, optimizer)
    with pytest.raises(
        OptionTypeError, match=r"^the new mask of 0.weight must be a bool tensor with the shape"
    ):
        parameter.mask = torch.ones(16, 8)
    with pytest.raises(ShapeError, match=r"of shape \(8, 16\): expected the weight's shape"):
        parameter.mask = torch.ones(8, 16, dtype=torch.bool)


def test_prune_takes_any_tensor_of_that_shape():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    parameter = sparsity.sparse_params["0.weight"]
    tensor = torch.full((16, 8), torch.nan)
    assert parameter.prune(tensor) is tensor
    assert torch.equal(tensor == 0, ~parameter.mask)
    with pytest.raises(ShapeError, match=r"moment of shape \(3,\): expected the shape"):
        parameter.prune(torch.ones(3), name="the moment")
    with torch.no_grad():
        parameter.param.fill_(1)
    sparsity.prune_weight(parameter)
    assert_pruned(sparsity)
