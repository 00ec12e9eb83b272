"""Weight decay of compressed weights in parameter groups chosen by `ndim`."""

import logging

import pytest
import torch
from torch import nn

import sparsewright as sparse


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4), nn.Linear(4, 4))


def by_ndim(model, decay=0.1):
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def log_of(caplog, config, groups, first="apply"):
    model = make()
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    if first == "optimizer":
        optimizer = torch.optim.AdamW(groups(model))
    if config.get("storage") != "compressed":
        sparse.compress(model, verbose=False)
    if first == "apply":
        optimizer = torch.optim.AdamW(groups(model))
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparsity.apply(optimizer)
    return [r.getMessage() for r in caplog.records if "weight decay" in r.getMessage()]


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_groups_by_ndim_made_after_compression_are_warned_about(caplog, storage):
    config = {"algorithm": "rigl", "sparsity": 0.5, "update": 2, "storage": storage}
    (message,) = log_of(caplog, config, by_ndim)
    assert message.startswith("0.weight and 2 more: these compressed weights have no weight decay")
    assert "another parameter group of AdamW has weight_decay=0.1." in message


def one_group(model):
    return list(model.parameters())


def no_decay(model):
    return by_ndim(model, 0.0)


def first_layer_dense(model):
    return [
        {"params": list(model[0].parameters()), "weight_decay": 0.1},
        {"params": list(model[1:].parameters()), "weight_decay": 0.0},
    ]


def values_decay(model):
    names = dict(model.named_parameters())
    weights = [p for name, p in names.items() if name.endswith("values")]
    others = [p for name, p in names.items() if not name.endswith("values")]
    return [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


@pytest.mark.parametrize("groups", [one_group, no_decay, values_decay])
def test_other_groups_are_not(caplog, groups):
    assert log_of(caplog, {"algorithm": "static", "sparsity": 0.5}, groups) == []


def test_groups_made_before_compression_are_not(caplog):
    config = {"algorithm": "static", "sparsity": 0.5}
    assert log_of(caplog, config, by_ndim, first="optimizer") == []


def test_a_group_with_matrices_was_made_on_purpose(caplog):
    def groups(model):
        model[3] = nn.Linear(4, 4)  # dense
        return first_layer_dense(model)

    assert log_of(caplog, {"algorithm": "static", "sparsity": 0.5}, groups) == []
