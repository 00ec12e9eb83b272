"""Tests of dense and sparse checkpoints, loaded before or during training, copied or assigned."""

import pickle

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.cases import OPTIMIZERS, attach, every_algorithm, step_once
from helpers.support import assert_pruned, backward, make_mlp, masks_of
from helpers.twins import kept_exactly
from sparsewright import init

every_way = pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
WITH_TOPK = {
    "static": lambda: sparse.Static(0.6, "topk"),
    "set": lambda: sparse.SET(sparsity=0.6, init_method="topk", update=2),
    "rigl": lambda: sparse.RigL(sparsity=0.6, init_method="topk", update=2),
    "group": lambda: sparse.configure(
        {"algorithm": "rigl", "sparsity": 0.6, "init_method": "topk", "update": 2}
    ),
    "user-defined": lambda: sparse.configure(
        {"algorithm": "UserDefined", "sparsity": 0.6, "init_method": "topk", "update": 2}
    ),
}


def dense(seed=5):
    """Return the checkpoint of a model that was never sparse."""
    return dict(make_mlp(seed).state_dict())


@every_way
@pytest.mark.parametrize("make", WITH_TOPK.values(), ids=WITH_TOPK)
def test_before_training_the_mask_comes_from_the_loaded_weights(make, assign):
    model, sparsity, _ = attach(make)
    result = model.load_state_dict(dense(), strict=True, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, parameter in sparsity.sparse_params.items():
        weight = dense()[name]
        kept = kept_exactly(0.6, weight.numel())
        smallest = weight.abs().flatten().sort(descending=True).values[kept - 1]
        assert torch.equal(parameter.mask, weight.abs() >= smallest)
        assert torch.equal(parameter.param, torch.where(parameter.mask, weight, 0))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsity.apply(optimizer)
    for step in range(1, 5):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)


@every_way
@every_algorithm
def test_during_training_the_mask_stays_and_the_weights_are_pruned(make, assign):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    masks, checkpoint = masks_of(sparsity), dense()
    keys, values = list(checkpoint), {key: value.clone() for key, value in checkpoint.items()}
    model.load_state_dict(checkpoint, strict=True, assign=assign)
    assert list(checkpoint) == keys
    for name, parameter in sparsity.sparse_params.items():
        assert torch.equal(parameter.mask, masks[name])
        assert torch.equal(parameter.param, torch.where(masks[name], values[name], 0))
    if not assign:
        assert all(torch.equal(checkpoint[key], values[key]) for key in keys)


@every_algorithm
def test_assigned_weights_are_followed_at_once(make):
    model, sparsity, _ = attach(make)
    model.load_state_dict(dense(), assign=True)
    backward(model)
    assert_pruned(sparsity)
    optimizer = OPTIMIZERS["adagrad"](model.parameters())
    sparsity.apply(optimizer)
    for step in range(1, 5):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
    assert all(p.param is sparsity.get_sparse_params(p.param).param for p in params(sparsity))


def params(sparsity):
    return sparsity.sparse_params.values()


@every_way
@every_algorithm
def test_a_sparse_checkpoint_brings_its_masks(make, assign):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 5):
        step_once(model, optimizer, step)
    checkpoint = {key: value.clone() for key, value in model.state_dict().items()}
    new_model, new, _ = attach(make, seed=9)
    new_model.load_state_dict(checkpoint, strict=True, assign=assign)
    for name, parameter in new.sparse_params.items():
        assert torch.equal(parameter.mask, checkpoint[f"{name}_mask"])
        assert torch.equal(parameter.param, checkpoint[name])
    new.initialize()
    new_model(torch.randn(2, 8))
    for name, parameter in new.sparse_params.items():
        assert torch.equal(parameter.mask, masks_of(sparsity)[name])


@every_algorithm
def test_missing_and_unexpected_keys_are_still_reported(make):
    model, _, _ = attach(make)
    checkpoint = dense()
    del checkpoint["2.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*2.weight"):
        model.load_state_dict(checkpoint)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stranger"):
        model.load_state_dict({**dense(), "stranger": torch.ones(1)})


def test_a_mask_of_zeros_and_ones_is_taken_and_any_other_number_is_not():
    model, sparsity, _ = attach(lambda: sparse.Static(0.5))
    mask = torch.eye(16, 8)
    model.load_state_dict({**model.state_dict(), "0.weight_mask": mask})
    assert torch.equal(sparsity.sparse_params["0.weight"].mask, mask.bool())
    with pytest.raises(RuntimeError, match=r"0.weight_mask: a mask of shape .* other than 0 and 1"):
        model.load_state_dict({**model.state_dict(), "0.weight_mask": mask / 2})


@every_algorithm
def test_a_dtype_change_keeps_the_contract(make):
    model, sparsity, _ = attach(make)
    model.double()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsity.apply(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(3, 8, dtype=torch.float64)).pow(2).mean().backward()
        optimizer.step()
        assert_pruned(sparsity, optimizer)
    assert sparsity.step == 3
    for parameter in params(sparsity):
        assert parameter.mask.dtype == torch.bool
        assert parameter.param.dtype == torch.float64


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight


def test_a_tied_weight_is_pruned_after_loading():
    model = Tied()
    sparse.Static(0.5).apply(model)
    for part, state in ((model, Tied().state_dict()), (model.b, nn.Linear(6, 6).state_dict())):
        part.load_state_dict(state)
        assert not model.b.weight[~model.a.weight_mask].any()
    copied = pickle.loads(pickle.dumps(model))
    assert copied.b.weight is copied.a.weight


def test_parts_that_are_loaded_one_after_the_other_get_the_masks_of_the_whole():
    dense = make_mlp(seed=7).state_dict()
    masks = []
    for keys in ([list(dense)], [["0.weight", "0.bias"], ["2.weight", "2.bias"]]):
        model = make_mlp()
        sparse.Static(0.5, init_method="topk").apply(model)
        for part in keys:
            model.load_state_dict({key: dense[key] for key in part}, strict=False)
        masks.append([model[0].weight_mask, model[2].weight_mask])
    assert all(map(torch.equal, *masks))
    assert torch.equal(masks[0][1], init.topk(dense["2.weight"], 0.5))
