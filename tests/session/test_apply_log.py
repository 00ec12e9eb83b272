"""Log lines of `apply` and of updates: a summary, and warnings about surprises."""

import logging

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.cases import every_algorithm
from helpers.support import backward, batch, make_mlp
from sparsewright.errors import SparsityWarning


def lines(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def model_of_every_kind():
    model = nn.Sequential(nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4))
    model[3].requires_grad_(False)
    return model


def test_one_line_says_what_is_sparse_and_what_is_not(caplog):
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparse.Static(0.75).apply(model_of_every_kind())
    *reasons, summary = lines(caplog, logging.INFO)
    assert summary == (
        "Static: 1 sparse weight, 16 of 64 entries kept (level 0.7500); "
        "left dense: embeddings (1), norms (2), vectors (1), frozen weights (2)"
    )
    assert reasons == [
        "0.weight stays dense: it is an embedding",
        "1.weight stays dense: it belongs to a normalization layer",
        "1.bias stays dense: it belongs to a normalization layer",
        "2.bias stays dense: at most one of its dimensions is larger than 1",
        "3.weight stays dense: it is frozen (requires_grad=False)",
        "3.bias stays dense: it is frozen (requires_grad=False)",
    ]


def test_the_summary_of_a_group_of_a_meta_model_and_of_compressed_weights(caplog):
    caplog.set_level(logging.INFO, "sparsewright")
    group = sparse.Group({"0.*": sparse.Static(0.5), "2.*": sparse.Static(0.25)})
    group.apply(make_mlp())
    assert caplog.messages[-1] == (
        "Group: 4 sparse weights, 123 of 212 entries kept (level 0.4198)"
    )
    with torch.device("meta"):
        model = make_mlp()
    sparse.Static(0.5).apply(model)
    text = "Static: 2 sparse weights with 192 entries; masks will be created when the weights have "
    assert caplog.messages[-1] == text + "data; left dense: vectors (2)"
    sparse.Static(0.5, storage="compressed").apply(make_mlp())
    assert "Static: 2 sparse weights, 96 of 192 entries kept (level 0.5000)" in caplog.messages[-1]


def test_nothing_sparse_is_a_warning_that_says_what_stays_dense():
    model = model_of_every_kind().requires_grad_(False)
    with pytest.warns(SparsityWarning, match=r"no parameter .*; left dense: frozen weights \(7\)"):
        sparse.Static(0.5).apply(model)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (1, 9)])
def test_a_layer_without_connections_is_named_once(caplog, storage, shape):
    inputs, outputs = shape
    model = nn.Sequential(nn.Linear(64, inputs), nn.Linear(inputs, outputs))
    algorithm = sparse.SET(sparsity=0.95, update=1, storage=storage)
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    for step in range(3):
        model(batch(step, 5, 64)).sum().backward()
        optimizer.step()
    warning = f"1.weight has no connections left (0 of {inputs * outputs}); lower its level"
    found = [line for line in lines(caplog, logging.WARNING) if line.startswith(warning)]
    assert len(found) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda level: sparse.GMP(level, update=1),
        lambda level: sparse.SET(sparsity=level, update=1),
        lambda level: sparse.STE(level),
    ],
    ids=["gmp", "set", "ste"],
)
def test_a_level_that_rises_until_a_layer_is_empty(caplog, make):
    model = make_mlp(hidden=2, outputs=2)
    algorithm = make({"type": "linear", "init": 0.5, "slope": 0.2})
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    assert not lines(caplog, logging.WARNING)
    for step in range(3):
        backward(model, step)
        optimizer.step()
    assert not algorithm.sparse_params["2.weight"].kept
    told = lines(caplog, logging.WARNING)
    empty = [line.split()[0] for line in told if "connections left" in line]
    assert empty.count("2.weight") == 1


@every_algorithm
def test_layers_with_connections_are_no_warning(caplog, make):
    model, algorithm = make_mlp(), make()
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    assert not lines(caplog, logging.WARNING)


def test_an_empty_weight_has_no_connections_to_lose(caplog):
    with pytest.warns(UserWarning, match="zero-element tensors"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(0, 4))
    sparse.Static(0.5).apply(model)
    assert not lines(caplog, logging.WARNING)


def test_frozen_weights_that_a_filter_picks_are_named(caplog):
    model = model_of_every_kind()
    algorithm = sparse.Group({"*.weight": sparse.Static(0.5)})
    algorithm.apply(model)
    assert "3.weight" in algorithm.sparse_params
    text = (
        "frozen weights become sparse because a param_filter picks them: 3.weight; "
        "to keep them dense, exclude them from the filter"
    )
    assert lines(caplog, logging.WARNING) == [text]


def test_to_prune_a_model_that_is_frozen_altogether_surprises_nobody(caplog):
    model = make_mlp().requires_grad_(False)
    sparse.Group({"*.weight": sparse.Static(0.5, "topk")}).apply(model)
    assert not lines(caplog, logging.WARNING)
    assert (model[0].weight == 0).float().mean() == 0.5
