"""Weights loaded without masks before the first step: the resulting masks and the warnings."""

from __future__ import annotations

import logging

import pytest
import torch

import sparsewright as sparse
from helpers.support import make_mlp, masks_of, train

DENSE_STORAGES = ("masked", "shadowed")


def messages(caplog):
    """Return the warnings that the library logged."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("storage", DENSE_STORAGES)
def test_a_mask_made_anew_is_told_once(storage, assign, caplog):
    model, sparsity = make_mlp(0), sparse.Static(0.75, init_method="topk", storage=storage)
    sparsity.apply(model)
    for seed in (1, 2):
        model.load_state_dict(make_mlp(seed).state_dict(), strict=False, assign=assign)
        for name, mask in masks_of(sparsity).items():
            weight = make_mlp(seed).get_parameter(name)
            assert torch.equal(mask, sparse.init.topk(weight, 0.75)), name
    (told,) = messages(caplog)
    assert told.startswith("0.weight: the state dict has no mask and training has not started")
    assert "the mask was recomputed from the loaded weight" in told


@pytest.mark.parametrize("part", [("0.weight",), ("2.weight",), ("0.weight", "2.weight")])
@pytest.mark.parametrize("storage", sparse.storage.ALL, ids=lambda storage: storage.name)
def test_a_ticket_keeps_its_masks_as_the_warning_says(storage, part, caplog):
    model, sparsity = make_mlp(0), sparse.Static(0.75, init_method="topk", storage=storage.name)
    sparsity.apply(model)
    before, initial = masks_of(sparsity), make_mlp(1).state_dict()
    model.load_state_dict({**model.state_dict(), **{name: initial[name] for name in part}})
    for name, mask in masks_of(sparsity).items():
        assert torch.equal(mask, before[name])
        given = initial if name in part else make_mlp(0).state_dict()
        assert torch.equal(model.state_dict()[name], given[name] * mask)
    assert not messages(caplog)


@pytest.mark.parametrize("storage", DENSE_STORAGES)
@pytest.mark.parametrize("init_method", ["random", "checkerboard"])
def test_a_mask_that_stays_equal_is_not_told(init_method, storage, caplog):
    model, sparsity = make_mlp(0), sparse.Static(0.5, init_method=init_method, storage=storage)
    sparsity.apply(model)
    before = masks_of(sparsity)
    model.load_state_dict(make_mlp(1).state_dict(), strict=False)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(sparsity).items())
    assert not messages(caplog)


@pytest.mark.parametrize("init_method", ["random", "topk"])
def test_a_compressed_weight_that_keeps_its_mask_is_told(init_method, caplog):
    model = make_mlp(0)
    sparsity = sparse.Static(0.75, init_method=init_method, storage="compressed")
    sparsity.apply(model)
    before = masks_of(sparsity)
    for seed in (1, 2):
        model.load_state_dict(make_mlp(seed).state_dict(), strict=False)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(sparsity).items())
    told = messages(caplog)
    assert len(told) == (init_method == "topk")
    assert all("keeps the mask that was computed from its earlier" in line for line in told)


def test_after_the_first_step_masks_stay_and_nothing_is_told(caplog):
    model, sparsity = make_mlp(0), sparse.Static(0.75, init_method="topk")
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    before = masks_of(sparsity)
    model.load_state_dict(make_mlp(1).state_dict(), strict=False)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(sparsity).items())
    assert not messages(caplog)
