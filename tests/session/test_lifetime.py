"""Freed objects: models without `remove`, a failed `apply`, one of several optimizers."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train
from sparsewright.errors import AttachError, ScoreError

MAKE = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "group": lambda: sparse.Group(
        [("0.weight", sparse.SET(sparsity=0.5, update=2)), ("2.weight", sparse.Static(0.5))]
    ),
}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_model_that_nobody_has_is_freed(make, storage):
    def run():
        model, sparsity = make_mlp(), make()
        sparsity.storage = storage
        sparsity.apply(model)
        optimizer = Adam(model.parameters())
        sparsity.apply(optimizer)
        train(model, optimizer, 3)  # RigL collects dense gradients for the fourth step
        return [weakref.ref(each) for each in (model, model[0], sparsity, optimizer)]

    alive = run()
    gc.collect()
    assert [each() for each in alive] == [None] * 4


def failing(p, sparsity, score_shaper=None, device=None):
    if p.shape[0] == 4:
        raise ValueError("not this one")
    return torch.ones_like(p, dtype=torch.bool)


@pytest.mark.parametrize("in_group", [False, True])
def test_a_failed_apply_leaves_the_model_as_it_was(in_group):
    model = make_mlp()
    before = list(model.state_dict())
    sparsity = sparse.Static(0.5, init_method=failing)
    whole = sparse.Group({"*.weight": sparsity}) if in_group else sparsity
    with pytest.raises(ValueError, match="not this one"):
        whole.apply(model)
    assert list(model.state_dict()) == before
    assert not whole.sparse_params
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not model[2].weight._post_accumulate_grad_hooks


def test_apply_works_once_its_mistake_is_mended():
    model = make_mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    sparsity = sparse.Static(0.5, init_method="topk")
    with pytest.raises(ScoreError):
        sparsity.apply(model)
    assert not sparsity.is_attached
    nn.init.ones_(model[2].weight)
    sparsity.apply(model)
    assert [p.kept for p in sparsity.sparse_params.values()] == [64, 32]


def test_one_optimizer_is_let_go_and_the_next_goes_on():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=4)
    sparsity.apply(model)
    updates = []
    sparsity.register_mask_update_hook(lambda update: updates.append(update.step))
    first = SGD(model.parameters(), 0.1)
    sparsity.apply(first)
    train(model, first, 3)
    second = SGD(model.parameters(), 0.1)
    sparsity.apply(second)
    sparsity.remove(first)
    train(model, second, 2, start=3)
    assert updates == [4, 4]
    assert sparsity.state_dict()["steps"] == [5]
    freed = weakref.ref(first)
    del first
    gc.collect()
    assert freed() is None
    with pytest.raises(AttachError, match=r"SGD: it was not passed to apply\(\), or was already"):
        sparsity.remove(SGD(model.parameters(), 0.1))
    assert_pruned(sparsity, second)


def test_a_group_lets_an_optimizer_go():
    model, sparsity = make_mlp(), MAKE["group"]()
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    sparsity.remove(optimizer)
    train(model, optimizer, 2)
    assert sparsity.step == 0
    assert sparsity.num_sparse_params == 2


def test_a_run_of_two_optimizers_goes_on_with_one():
    """The second optimizer replaced the first one, which does not exist in the resumed run."""
    model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update=5)
    sparsity.apply(model)
    both = [SGD(model.parameters(), 0.1) for _ in range(2)]
    for optimizer, steps in zip(both, (3, 4), strict=True):
        sparsity.apply(optimizer)
        train(model, optimizer, steps)
    assert sparsity.state_dict()["steps"] == [3, 7]
    resumed, other = sparse.SET(sparsity=0.5, update=5), make_mlp()
    resumed.apply(other)
    optimizer = SGD(other.parameters(), 0.1)
    resumed.apply(optimizer)
    resumed.load_state_dict(sparsity.state_dict())
    updates = []
    resumed.register_mask_update_hook(lambda update: updates.append(update.step))
    train(other, optimizer, 4)
    assert resumed.step == 11
    assert updates == [10, 10]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_optimizers_one_after_the_other_are_let_go(make):
    model, sparsity = make_mlp(), make()
    sparsity.apply(model)
    gone = []
    for phase in range(4):
        optimizer = Adam(model.parameters())
        sparsity.apply(optimizer)
        train(model, optimizer, 3, start=3 * phase)
        assert_pruned(sparsity, optimizer)
        gone.append(weakref.ref(optimizer))
        if phase % 2:
            del optimizer  # before or after the next optimizer is created
            gc.collect()
    gc.collect()
    assert [each() for each in gone] == [None] * 4
    assert sparsity.step == 12
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    assert sparsity.step == 13
    assert len(sparsity.session.followed) == 1


def test_updates_go_on_after_an_optimizer_that_nobody_has():
    model, sparsity = make_mlp(), sparse.SET(sparsity=[0.3, 0.4, 0.5, 0.6], update=2)
    sparsity.apply(model)
    updates = []
    sparsity.register_mask_update_hook(lambda update: updates.append((update.step, update.target)))
    for steps in (3, 3, 2):
        optimizer = SGD(model.parameters(), 0.1)
        sparsity.apply(optimizer)
        train(model, optimizer, steps)
        del optimizer
        gc.collect()
    assert updates[::2] == [(2, 0.4), (4, 0.5), (6, 0.6), (8, 0.3)]
    assert sparsity.step == 8


def test_one_of_two_optimizers_of_other_parameters_is_let_go():
    one, two = make_mlp(), make_mlp()
    sparsity = sparse.SET(sparsity=0.5, update=2)
    sparsity.apply(one)
    sparsity.apply(two)
    first, second = (SGD(model.parameters(), 0.1) for model in (one, two))
    sparsity.apply(first)
    sparsity.apply(second)
    train(one, first, 5)
    train(two, second, 3)
    del first
    gc.collect()
    train(two, second, 1)
    assert sparsity.state_dict()["steps"] == [5, 4]
    third = SGD(one.parameters(), 0.1)
    sparsity.apply(third)
    train(one, third, 1)
    assert sparsity.step == 6
    assert sorted(sparsity.state_dict()["steps"]) == [4, 6]
