"""After Ctrl-C at any line of an optimizer step, the model still trains."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.interruptions import interrupt, places_in
from helpers.support import assert_pruned, backward, make_mlp, train
from sparsewright.core.counts import num_kept

CUBIC = {"type": "cubic", "init": 0.2, "final": 0.9, "begin": 0, "end": 8}
ALGORITHMS = {
    "static": lambda **held: sparse.Static(0.7, **held),
    "gmp": lambda **held: sparse.GMP(CUBIC, update={"freq": 2, "stop": 9}, **held),
    "set": lambda **held: sparse.SET([0.5, 0.3], sparsity=0.7, update=2, **held),
    "rigl": lambda **held: sparse.RigL(0.5, sparsity=0.7, update=2, **held),
    "ste": lambda **held: sparse.STE(0.7, update=2, **held),
}
LEVELS = {"gmp": 0.9}
OPTIMIZERS = {
    "adamw": lambda params: torch.optim.AdamW(params, 0.01),
    "sgd": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
    "adagrad": lambda params: torch.optim.Adagrad(params, 0.1),
}
CASES = [
    (name, storage)
    for name in ALGORITHMS
    for storage in (("shadowed",) if name == "ste" else ("masked", "compressed", "shadowed"))
]


def before_a_step(name, storage, optimizer, steps):
    """Return a sparse model after some steps and one more backward pass."""
    model, sparsity = make_mlp(0), ALGORITHMS[name](storage=storage)
    sparsity.apply(model)
    stepped = OPTIMIZERS[optimizer](model.parameters())
    sparsity.apply(stepped)
    train(model, stepped, steps)
    stepped.zero_grad()
    backward(model, steps)
    return model, sparsity, stepped


def assert_consistent(sparsity, optimizer):
    """Check that tensors have their weight's shape and that indices are as long as values."""
    for parameter in sparsity.sparse_params.values():
        param = parameter.param
        assert parameter.kept == int(parameter.mask.sum())
        assert param.grad is None or param.grad.shape == param.shape
        if parameter.is_compressed:
            assert param.numel() == parameter.kept
        for key, value in optimizer.state.get(param, {}).items():
            assert value.dim() == 0 or value.shape == param.shape, key


def assert_zero(sparsity, optimizer):
    """Check that weights and states are zero at pruned connections."""
    if not any(parameter.is_compressed for parameter in sparsity.sparse_params.values()):
        assert_pruned(sparsity, optimizer)


def check_interrupted(name, storage, optimizer, steps, place):
    """Interrupt the step after `steps` at a given line, and continue training."""
    model, sparsity, stepped = before_a_step(name, storage, optimizer, steps)
    assert interrupt(stepped.step, place)
    assert_consistent(sparsity, stepped)
    done = sparsity.step
    assert done in (steps, steps + 1)
    model(torch.ones(2, 8))
    if storage == "shadowed":
        assert_pruned(sparsity)  # weights are pruned in the next forward pass
    for number in range(done, done + 3):
        train(model, stepped, 1, start=number)
        assert sparsity.step == number + 1
        assert_consistent(sparsity, stepped)
        assert_zero(sparsity, stepped)
    level = LEVELS.get(name, 0.7)
    for parameter in sparsity.sparse_params.values():
        if name != "gmp" or steps >= 7:  # the last update was interrupted and repeated
            assert parameter.kept == num_kept(level, parameter.shape.numel())


def check_every(name, storage, optimizer, every):
    """Interrupt an update, and the last update, at every `every`-th line."""
    for steps in (3, 7):
        *_, stepped = before_a_step(name, storage, optimizer, steps)
        places = places_in(stepped.step)
        assert len(places) > 100
        for place in places[steps % every :: every]:
            check_interrupted(name, storage, optimizer, steps, place)


@pytest.mark.parametrize(("name", "storage"), CASES)
def test_an_interrupted_step_leaves_a_model_that_trains_on(name, storage):
    check_every(name, storage, "adamw", 16)


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "storage"), CASES)
def test_interrupted_at_every_line(name, storage, optimizer):
    check_every(name, storage, optimizer, 1)


@pytest.mark.parametrize("storage", ["masked", "compressed", "shadowed"])
def test_a_mask_changed_by_hand_is_the_old_one_or_the_new_one(storage):
    def prepared():
        model, sparsity, optimizer = before_a_step("static", storage, "adamw", 2)
        return model, sparsity, optimizer, sparsity.sparse_params["0.weight"]

    new = torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) < 0.4
    model, _, _, parameter = prepared()
    old, seen = parameter.mask.clone(), set()
    for place in places_in(partial(parameter.change_mask, new)):
        model, sparsity, optimizer, parameter = prepared()
        assert interrupt(partial(parameter.change_mask, new), place)
        assert_consistent(sparsity, optimizer)
        assert_zero(sparsity, optimizer)
        is_new = torch.equal(parameter.mask, new)
        assert is_new or torch.equal(parameter.mask, old)
        seen.add(is_new)
        train(model, optimizer, 2, start=3)
        assert_zero(sparsity, optimizer)
    assert seen == {True, False}


class FailsOnce(sparse.DynamicSparsityAlgorithm):
    """Raise in the first update of one weight."""

    failing = "2.weight"

    def update_masks(self, updates):
        for update in updates:
            if update.name == self.failing:
                self.failing = ""
                raise ZeroDivisionError(update.name)
            yield self.structure.topk(update.weight, update.level, magnitude=True)

    def update_mask(self, p, mask, sparsity):
        raise NotImplementedError


@pytest.mark.parametrize("failing", ["0.weight", "2.weight"])
@pytest.mark.parametrize("storage", ["masked", "compressed", "shadowed"])
def test_an_update_that_raises_is_made_up_for_at_the_next_step(storage, failing):
    model = make_mlp(0)
    sparsity = FailsOnce(CUBIC, {"freq": 8, "stop": 9}, "topk", storage=storage)
    sparsity.failing = failing
    sparsity.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 7)
    with pytest.raises(ZeroDivisionError, match=failing):
        train(model, optimizer, 1, start=7)
    assert sparsity.step == 8
    assert_consistent(sparsity, optimizer)
    assert_zero(sparsity, optimizer)
    train(model, optimizer, 1, start=8)
    for parameter in sparsity.sparse_params.values():
        assert parameter.kept == num_kept(0.9, parameter.shape.numel())
    assert sparsity.step == 9
    masks = [parameter.mask.clone() for parameter in sparsity.sparse_params.values()]
    train(model, optimizer, 2, start=9)
    after = [parameter.mask for parameter in sparsity.sparse_params.values()]
    assert all(map(torch.equal, masks, after))


def test_other_algorithms_of_a_group_are_made_up_for_too():
    model, group = make_mlp(0), sparse.Group()
    group.add("0.*", FailsOnce(CUBIC, {"freq": 8, "stop": 9}, "topk"))
    group.add("2.*", sparse.GMP(CUBIC, update={"freq": 8, "stop": 9}))
    group[0].failing = "0.weight"
    group.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    group.apply(optimizer)
    with pytest.raises(ZeroDivisionError):
        train(model, optimizer, 8)
    train(model, optimizer, 1, start=8)
    for parameter in group.sparse_params.values():
        assert parameter.kept == num_kept(0.9, parameter.shape.numel())


class Stops(torch.optim.Optimizer):
    """Gradient descent that raises during its step, after it has changed some weights."""

    stops = False

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            param.sub_(param.grad, alpha=0.1)
            if self.stops and param.dim() == 1:
                self.stops = False
                raise KeyboardInterrupt


def look_by_forward(model, sparsity):
    model(torch.ones(2, 8))


def look_by_state_dict(model, sparsity):
    model.state_dict()


def look_by_algorithm(model, sparsity):
    sparsity.state_dict()


def look_by_loading(model, sparsity):
    state = {key: value.clone() for key, value in make_mlp(3).state_dict().items()}
    model.load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    "look", [look_by_forward, look_by_state_dict, look_by_algorithm, look_by_loading]
)
def test_a_step_that_raises_leaves_no_dense_weight(look):
    model, sparsity = make_mlp(0), sparse.STE(0.5, update=2)
    sparsity.apply(model)
    optimizer = Stops(model.parameters())
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    optimizer.stops = True
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer, 1, start=3)
    assert sparsity.step == 3
    hooks = len(model[0]._forward_pre_hooks)
    assert model[0].weight.detach()[~model[0].weight_mask].any()
    look(model, sparsity)
    assert_pruned(sparsity)
    assert len(model[0]._forward_pre_hooks) == hooks - 1
    assert all(shadow.any() for shadow in sparsity.shadows.values())
    train(model, optimizer, 2, start=3)
    assert sparsity.step == 5
    assert_pruned(sparsity)


def test_removed_after_a_step_that_raised():
    model, sparsity = make_mlp(0), sparse.STE(0.5)
    sparsity.apply(model)
    mask = model[0].weight_mask
    optimizer = Stops(model.parameters())
    sparsity.apply(optimizer)
    optimizer.stops = True
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer, 1)
    sparsity.remove()
    assert not model[0].weight.detach()[~mask].any()
    assert not model[0]._forward_pre_hooks


def test_a_copy_made_after_a_step_that_raised_is_pruned_when_it_is_called():

    model, sparsity = nn.Sequential(nn.Linear(8, 4)), sparse.STE(0.5)
    sparsity.apply(model)
    optimizer = Stops(model.parameters())
    sparsity.apply(optimizer)
    optimizer.stops = True
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer, 1)
    twin = copy.deepcopy(model)
    x = torch.ones(2, 8)
    assert torch.equal(twin(x), model(x))
    assert not twin[0].weight.detach()[~twin[0].weight_mask].any()
