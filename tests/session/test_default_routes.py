"""Every way to apply an algorithm makes the same default choice and follows a given filter."""

import copy

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.named import BLOCKS, Named, blocks, linear
from sparsewright.errors import SparsityWarning


def everything():
    torch.manual_seed(0)
    return Named(
        wte=nn.Embedding(10, 8),
        scale=torch.ones(8, 1, 1),
        norm_over_two=nn.LayerNorm([8, 4]),
        frozen=linear().requires_grad_(False),
        blocks=blocks(),
        out=linear(8, 10),
    )


DEFAULT = {"sparsity": 0.5, "update": 2}
ROUTES = {
    "bare": lambda: sparse.SET(**DEFAULT),
    "configure": lambda: sparse.configure({"algorithm": "rigl", **DEFAULT}),
    "number": lambda: sparse.configure(0.5),
    "nested": lambda: sparse.configure({**DEFAULT, "groups": [{"algorithm": "set"}]}),
    "group": lambda: sparse.Group({sparse.default_sparse_param_filter: sparse.Static(0.5)}),
    "compressed": lambda: sparse.Static(0.5, storage="compressed"),
    "shadowed": lambda: sparse.STE(0.5),
    "erk": lambda: sparse.Static(0.5, distribution="erk"),
    "2:4": lambda: sparse.Static(structure="2:4"),
}
MODELS = {
    "as it is": lambda model: model,
    "copied": copy.deepcopy,
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.parametrize("make", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("wrap", MODELS.values(), ids=MODELS)
def test_every_route_leaves_the_same_dense(make, wrap):
    model, algorithm = wrap(everything()), make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    algorithm.apply(model)
    assert set(algorithm.sparse_params) == BLOCKS
    for name, param in model.named_parameters():
        if "blocks" not in name:
            assert torch.equal(param, before[name]), name


def test_entries_with_and_without_a_filter():
    model = everything()
    group = sparse.configure(
        [
            {"algorithm": "static", "sparsity": 0.25, "param_filter": ["wte.*", "scale"]},
            {"algorithm": "static", "sparsity": 0.5},
        ]
    )
    group.apply(model)
    assert set(group[0].sparse_params) == {"wte.weight", "scale"}
    assert set(group[1].sparse_params) == BLOCKS
    second = sparse.Group([(sparse.default_sparse_param_filter, sparse.Static(0.5))] * 2)
    with pytest.warns(
        SparsityWarning, match="the filter default_sparse_param_filter matched no parameter"
    ):
        second.apply(everything())


def test_a_filter_of_the_user_is_obeyed():
    model, seen = everything(), []

    def picks(name, param):
        seen.append(name)
        return sparse.default_sparse_param_filter(name, param)

    algorithm = sparse.Group({picks: sparse.Static(0.5)})
    algorithm.apply(model)
    assert seen == [name for name, _ in model.named_parameters()]
    assert set(algorithm.sparse_params) == BLOCKS | {
        *("wte.weight", "scale", "frozen.weight", "out.weight")
    }


def test_what_is_unfrozen_after_apply_stays_dense_until_the_next_one():
    model, algorithm = everything(), sparse.Static(0.5)
    algorithm.apply(model)
    model.frozen.requires_grad_(True)
    assert "frozen.weight" not in algorithm.sparse_params
    other = sparse.Static(0.5)
    other.apply(model.frozen)
    assert list(other.sparse_params) == ["weight"]
