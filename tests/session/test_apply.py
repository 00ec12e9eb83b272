"""Tests of `apply` for models and optimizers: names, filters, order, opt-outs, warnings."""

import logging

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam

import sparsewright as sparse
from helpers.support import UserDefined, assert_pruned, kept_of, make_mlp, train
from sparsewright.errors import (
    AttachError,
    MissingOptionError,
    OptionTypeError,
    ShapeError,
    SparsityWarning,
)


class Nested(nn.Module):
    """A module with nested modules and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.randn(8, 8))
        self.block = nn.ModuleDict({"first": make_mlp(), "second": make_mlp(1)})
        self.norm = nn.Linear(4, 4)

    def forward(self, x):
        return self.block["first"](x @ self.own) + self.block["second"](x)


NAMES = [
    "own",
    "block.first.0.weight",
    "block.first.2.weight",
    "block.second.0.weight",
    "block.second.2.weight",
]


@pytest.mark.parametrize(
    "way", ["sparsity.apply(model)", "model.apply(sparsity)", "sparsity(model)"]
)
def test_both_ways_to_apply_give_full_names(way):
    model, sparsity = Nested(), sparse.Static(0.5, "topk")
    result = {
        "sparsity.apply(model)": lambda: sparsity.apply(model),
        "model.apply(sparsity)": lambda: model.apply(sparsity),
        "sparsity(model)": lambda: sparsity(model),
    }[way]()
    assert result is (model if way.startswith("model") else None)
    assert list(sparsity.sparse_params) == NAMES
    assert kept_of(sparsity) == dict(zip(NAMES, [32, 64, 32, 64, 32], strict=True))
    assert_pruned(sparsity)
    assert not any("mask" in name for name in model.norm.state_dict())


def test_inner_visits_touch_nothing_and_filters_see_full_names_once():
    model, seen = Nested(), []

    def picks(name, param):
        # The root is visited last, so every weight is unchanged until then.
        assert all((p != 0).all() for p in model.parameters() if p.ndim > 1)
        seen.append(name)
        return name == "block.second.0.weight"

    group = sparse.Group([(picks, sparse.Static(0.5))])
    assert model.apply(group) is model
    assert seen == [name for name, _ in model.named_parameters()]
    assert kept_of(group) == {"block.second.0.weight": 64}


def test_applying_to_a_part_names_from_that_part():
    model, sparsity = Nested(), sparse.Static(0.5)
    model.block.apply(sparsity)
    assert list(sparsity.sparse_params) == [name.removeprefix("block.") for name in NAMES[1:]]


def test_a_model_that_overrides_apply_and_calls_super():
    class Own(Nested):
        def apply(self, fn):
            return super().apply(fn)

    sparsity = sparse.Static(0.5)
    Own().apply(sparsity)
    assert list(sparsity.sparse_params) == NAMES


def test_a_user_override_of_sparsify_parameter_is_called_for_each():
    class Own(sparse.Static):
        def sparsify_parameter(self, module, name, param):
            assert any(own is param for own in module.parameters(recurse=False))
            if "second" not in name:
                super().sparsify_parameter(module, name, param)

    sparsity = Own(0.5)
    Nested().apply(sparsity)
    assert list(sparsity.sparse_params) == NAMES[:3]


def test_several_modules_with_equal_names_never_collide():
    """FIX: in the reference implementation, the second module replaces the first."""
    models, sparsity = [make_mlp(seed) for seed in range(3)], sparse.Static(0.5)
    for model in models:
        sparsity.apply(model)
    names = ["0.weight", "2.weight"]
    assert list(sparsity.sparse_params) == names + [f"{n}#{i}" for i in (2, 3) for n in names]
    for model in models:
        assert [p.module for p in sparsity.get_sparse_params(model)] == [model[0], model[2]]
        assert (model[0].weight == 0).sum() == 64
    assert sparsity.num_sparse_params == 6
    first, second = (sparsity.sparse_params[name].mask for name in ("0.weight", "0.weight#2"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("make", [lambda: sparse.Static(0.5), lambda: sparse.configure(0.5)])
def test_model_and_optimizer_in_any_order(optimizer_first, make):
    sparsity, model = make(), make_mlp()
    optimizer = Adagrad(model.parameters(), 0.1, initial_accumulator_value=1.0)
    for obj in (optimizer, model) if optimizer_first else (model, optimizer):
        sparsity.apply(obj)
    assert_pruned(sparsity, optimizer)
    train(model, optimizer, 2)
    assert sparsity.step == 2
    assert_pruned(sparsity, optimizer)


def test_several_optimizers_step_their_own_parameters():
    """FIX: each optimizer counts its own steps, and its masks change at these steps."""
    model = make_mlp()
    sparsity = sparse.SET(sparsity=0.5, update=2)
    sparsity.apply(model)
    first, second = SGD(model[0].parameters(), 0.1), Adam(model[2].parameters(), 0.1)
    sparsity.apply(first)
    sparsity.apply(second)
    events = []
    sparsity.register_mask_update_hook(lambda event: events.append((event.step, event.name)))
    for step, optimizers in enumerate([[first], [first, second], [second], [second]]):
        train_with(model, optimizers, step)
        assert_pruned(sparsity, first, second)
    assert events == [(2, "0.weight"), (2, "2.weight")]
    assert sparsity.step == 3
    assert sparsity.state_dict()["steps"] == [2, 3]


def train_with(model, optimizers, step):
    model.zero_grad()
    model(torch.randn(4, 8)).pow(2).mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def test_a_third_optimizer_later_does_not_disturb_the_others():
    model = make_mlp()
    sparsity = sparse.RigL(sparsity=0.5, update={"steps": [0, 1, 3]})
    sparsity.apply(model)
    first, second = SGD(model[0].parameters(), 0.1), SGD(model[2].parameters(), 0.1)
    sparsity.apply(first)
    sparsity.apply(second)
    events = []
    sparsity.register_mask_update_hook(lambda event: events.append((event.step, event.name)))
    train_with(model, [first], 0)
    sparsity.apply(SGD([nn.Parameter(torch.zeros(2))], 0.1))
    train_with(model, [second], 1)
    assert events == [(1, "0.weight"), (1, "2.weight")]


def test_applying_twice_warns_and_changes_nothing():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    text = r"these parameters are already sparse and were left unchanged: 0.weight, 2.weight$"
    with pytest.warns(SparsityWarning, match=text):
        model.apply(sparsity)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert sparsity.num_sparse_params == 2


def test_applying_to_an_optimizer_twice_warns_and_steps_once():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    with pytest.warns(SparsityWarning, match="already sparsified; this call changes nothing"):
        sparsity.apply(optimizer)
    train(model, optimizer, 1)
    assert sparsity.step == 1


def test_nothing_matched_warns_and_lists_the_names():
    model = nn.Sequential(nn.LayerNorm(4))
    with pytest.warns(SparsityWarning, match=r"no parameter was .* available: 0.weight, 0.bias"):
        sparse.Static(0.5).apply(model)
    with pytest.warns(SparsityWarning, match="available: none"):
        sparse.Static(0.5).apply(nn.ReLU())


@pytest.mark.parametrize(
    "make",
    [lambda: sparse.Static(0.5), lambda: sparse.configure({"algorithm": "set", "sparsity": 0})],
)
def test_anything_but_a_module_or_optimizer_raises(make):
    for wrong in (torch.zeros(2), [make_mlp()], None, nn.Linear):
        with pytest.raises(
            OptionTypeError, match=r"^the argument of apply must be a Module or an Optimizer; got "
        ):
            make().apply(wrong)


def test_requires_dense_on_a_parameter_and_on_a_module():
    model = Nested()
    model.own.requires_dense = True
    model.block["first"].requires_dense = True
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    assert list(sparsity.sparse_params) == NAMES[3:]
    everything = nn.Sequential(nn.Linear(3, 3))
    everything.requires_dense = True
    with pytest.warns(SparsityWarning, match="no parameter was sparsified"):
        sparse.Static(0.5).apply(everything)


def test_requires_dense_on_optimizer_state():
    model = make_mlp()
    optimizer = Adagrad(model.parameters(), 0.1, initial_accumulator_value=1.0)
    kept_dense = optimizer.state[model[0].weight]["sum"]
    kept_dense.requires_dense = True
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    assert (kept_dense >= 1).all()
    pruned = ~sparsity.sparse_params["2.weight"].mask
    assert not optimizer.state[model[2].weight]["sum"][pruned].any()


def test_skipped_parameters_are_logged_with_their_reason(caplog):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["c"].requires_dense = True
    model.register_parameter(
        "table", nn.Parameter(torch.zeros(2, 2, dtype=torch.int64), requires_grad=False)
    )
    with caplog.at_level(logging.INFO, logger="sparsewright"):
        sparse.Static(0.5).apply(model)
    for reason in (
        "a.bias stays dense: at most one of its dimensions is larger than 1",
        "b.weight stays dense: it is tied to a.weight, and filters see only that name",
        "c.weight stays dense: it or its module sets requires_dense",
        "table stays dense: its dtype torch.int64 is not floating point",
    ):
        assert reason in caplog.text


def test_levels_by_parameter():
    model = make_mlp()
    levels = {model[0].weight: 0.75, model[2].weight: 0.25}
    sparsity = sparse.Static(levels)
    with pytest.raises(
        MissingOptionError, match=r"^the dict of levels by parameter needs a level for '2.bias'\.$"
    ):
        sparsity.sparsify_parameter(model[2], "2.bias", model[2].bias)
    sparsity.apply(model)
    assert kept_of(sparsity) == {"0.weight": 32, "2.weight": 48}
    assert {id(p): float(s(0)) for p, s in sparsity.sparsity.items()} == {
        id(p): level for p, level in levels.items()
    }


def test_sparsity_reads_back_as_parameter_to_schedule():
    model, sparsity = make_mlp(), sparse.SET(sparsity=[0.1, 0.2])
    sparsity.apply(model)
    assert [id(p) for p in sparsity.sparsity] == [id(model[0].weight), id(model[2].weight)]
    assert set(map(repr, sparsity.sparsity.values())) == {"Cycling([0.1, 0.2])"}


def test_a_taken_buffer_name_raises_before_anything_is_attached():
    for taken in (3, torch.zeros(4, 16)):
        model, sparsity = make_mlp(), sparse.Static(0.5)
        if isinstance(taken, int):
            model[2].weight_mask = taken
        else:
            model[2].register_buffer("weight_mask", taken)
        text = r"2.weight: its module already has an? (attribute|buffer) 'weight_mask'.*; rename"
        with pytest.raises(AttachError, match=text):
            sparsity.apply(model)
        assert sparsity.num_sparse_params == 0
        assert "0.weight_mask" not in model.state_dict()
        assert model[0].weight.all()


def test_embeddings_with_sparse_gradients_raise_before_anything_is_attached():
    for kind in (nn.Embedding, nn.EmbeddingBag):
        model = nn.ModuleDict({"fc": nn.Linear(8, 8)})
        sparsity = sparse.Group({"*.weight": sparse.Static(0.5)})
        model["table"] = kind(10, 8, sparse=True)
        text = rf"table.weight: its {kind.__name__} produces sparse gradients, .*with sparse=False"
        with pytest.raises(AttachError, match=text):
            sparsity.apply(model)
        assert model["fc"].weight.all()
        model["table"].sparse = False
        sparsity.apply(model)
        assert sparsity.num_sparse_params == 2


def test_groups_that_do_not_divide_raise_before_anything_is_attached():
    model = make_mlp()
    sparsity = sparse.RigL(sparsity=0.5, balance_in_groups=8)
    model[2] = nn.Linear(12, 4)
    with pytest.raises(ShapeError, match=r"2.weight of shape \(4, 12\): its input dimension 12"):
        sparsity.apply(model)
    assert "0.weight_mask" not in model.state_dict()


def test_user_defined_algorithms_apply_like_the_others():
    model, sparsity = make_mlp(), UserDefined(sparsity=0.5)
    model.apply(sparsity)
    assert kept_of(sparsity) == {"0.weight": 64, "2.weight": 32}


@pytest.mark.parametrize("group", ["world", 3, [0], torch.ones(2)])
def test_a_process_group_that_is_none_is_refused(group):
    algorithm = sparse.Static(0.5)
    with pytest.raises(OptionTypeError, match=r"process_group .*'auto', None or a ProcessGroup"):
        algorithm.process_group = group
    assert algorithm.process_group == "auto"
