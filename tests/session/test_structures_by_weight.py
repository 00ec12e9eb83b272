"""Structures that depend on the name of the weight: neurons that may or may not be ablated."""

import copy
import logging

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import assert_same, batch
from sparsewright.errors import OptionError
from sparsewright.structures import FanIn

ABLATE = {"type": "fan_in", "ablate": 0.5, "exempt": ["head.*"]}
RIGL = {
    "algorithm": "rigl",
    "sparsity": 0.75,
    "update": 2,
    "structure": ABLATE,
    "param_filter": "*.weight",  # the default filter leaves the head dense
}


class Small(nn.Module):
    """Two layers; the first neurons of each have small weights."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(16, 24), nn.Linear(24, 12)
        with torch.no_grad():
            for layer in (self.body, self.head):
                layer.weight[: len(layer.weight) // 2] *= 1e-3

    def forward(self, x):
        return self.head(self.body(x).tanh())


def attach(config, model=None):
    model = Small() if model is None else model
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        model(batch(step, 5, 16)).pow(2).mean().backward()
        optimizer.step()


def fan_ins(layer):
    return layer.weight_mask.sum(1).tolist()


def active(layer):
    return sum(map(bool, fan_ins(layer)))


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize(
    "config",
    [
        RIGL,
        {**RIGL, "algorithm": "set"},
        {**RIGL, "algorithm": "gmp", "sparsity": [0.75, 0.8]},
        {**RIGL, "init_method": "topk"},
    ],
    ids=["rigl", "set", "gmp", "rigl from topk"],
)
def test_only_weights_that_are_not_exempt_lose_neurons(config, storage):
    model, sparsity, optimizer = attach({**config, "storage": storage})
    for step in range(6):
        train(model, optimizer, 1, start=step)
        for layer in (model.body, model.head):
            assert len(set(fan_ins(layer)) - {0}) == 1
        assert active(model.head) == 12
    assert 0 < active(model.body) < 24
    assert sparsity.sparse_params["body.weight"].structure.ablate == 0.5
    assert sparsity.sparse_params["head.weight"].structure.ablate is None


@pytest.mark.parametrize("exempt", ["*", ["body.*", "head.*"]])
def test_exempt_from_everything_is_without_ablation(exempt):
    states = []
    for structure in ({**ABLATE, "exempt": exempt}, "fan_in"):
        model, _, optimizer = attach({**RIGL, "structure": structure})
        train(model, optimizer, 5)
        states.append(model.state_dict())
    assert_same(*states)


def test_a_random_start_ablates_nothing_and_the_largest_weights_do():
    model, _, _ = attach(RIGL)
    assert fan_ins(model.body) == [4] * 24
    config = {**RIGL, "algorithm": "static", "init_method": "topk"}
    del config["update"]
    model, _, _ = attach(config)
    assert active(model.body) <= 12


def test_a_glob_without_a_weight_raises():
    sparsity = sparse.configure({**RIGL, "structure": {**ABLATE, "exempt": ["head.wieght"]}})
    message = (
        r"^exempt must be a glob that matches a sparse weight; got 'head\.wieght'\. Similar names: "
        r"head\.weight, body\.weight\.$"
    )
    with pytest.raises(OptionError, match=message):
        sparsity.apply(Small())
    assert sparsity.num_sparse_params == 0


def test_each_algorithm_of_a_group_asks_for_its_own_weights():
    group = sparse.Group(
        [
            ("body.weight", sparse.RigL(sparsity=0.5, structure=FanIn(0.3))),
            ("*.weight", sparse.SET(sparsity=0.5, structure=FanIn(0.5, "head.*"))),
        ]
    )
    model = Small()
    group.apply(model)
    kinds = {name: repr(p.structure) for name, p in group.sparse_params.items()}
    assert kinds == {"body.weight": "FanIn(ablate=0.3)", "head.weight": "FanIn()"}


def test_exempt_weights_stay_exempt_under_a_new_name():
    model, sparsity, optimizer = attach(RIGL)
    outer = nn.Module()
    outer.net = model
    sparse.remove(model)
    model, sparsity, optimizer = attach(
        {**RIGL, "structure": {**ABLATE, "exempt": "*head.*"}}, outer
    )
    model.forward = model.net.forward
    train(model, optimizer, 5)
    assert active(model.net.head) == 12
    assert active(model.net.body) < 24
    again = copy.deepcopy(sparsity)
    assert repr(again) == repr(sparsity)
    assert again._structures == {}


def test_another_structure_is_used_from_the_next_update_on():
    model, sparsity, optimizer = attach(RIGL)
    train(model, optimizer, 2)
    assert active(model.body) < 24
    (own,) = sparsity.algorithms
    own.structure = "fan_in"
    train(model, optimizer, 2, start=2)
    assert fan_ins(model.body) == [4] * 24


class Watching(sparse.DynamicSparsityAlgorithm):
    """Selects by magnitude with `self.structure`, as an algorithm of the user's own may."""

    seen: tuple[object, ...] = ()

    def update_mask(self, p, mask, sparsity):
        self.seen = (*self.seen, self.structure, self.score_shaper)
        return self.structure.topk(p, sparsity, magnitude=True)


def test_an_algorithm_sees_the_structure_of_the_weight_in_its_update():
    sparsity, model = Watching(sparsity=0.75, update={"start": 1}, structure=ABLATE), Small()
    sparse.Group({"*.weight": sparsity}).apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    sparse.find(model).apply(optimizer)
    train(model, optimizer, 1)
    assert [structure.ablate for structure in sparsity.seen] == [0.5, 0.5, None, None]
    assert sparsity.structure.exempt == ("head.*",)
    assert active(model.head) == 12
    assert active(model.body) <= 12


def test_a_frozen_weight_at_the_last_update_is_no_missed_level(caplog):
    """With ablation the count is not known beforehand, so it cannot be missed."""
    model, _, optimizer = attach({**RIGL, "update": {"freq": 2, "stop": 5}})
    train(model, optimizer, 3)
    model.body.weight.requires_grad_(False)
    with caplog.at_level(logging.INFO, "sparsewright"):
        train(model, optimizer, 3, start=3)
    assert [r.levelname for r in caplog.records if "body.weight" in r.message] == ["INFO"]
