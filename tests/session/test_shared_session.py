"""The session that a Group's algorithms share: one step, one set of optimizers and hooks."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright.errors import AlgorithmError, AttachError


def group_of(*algorithms):
    return sparse.Group([(f"{2 * i}.weight", each) for i, each in enumerate(algorithms)])


def attach(group):
    model = make_mlp()
    group.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    return model, optimizer


def test_algorithms_of_a_group_share_its_session():
    group = group_of(sparse.SET(sparsity=0.5, update=1), sparse.Static(0.5))
    assert group.session is group[0].session is group[1].session
    model, optimizer = attach(group)
    train(model, optimizer, 3)
    assert group.step == group[0].step == group[1].step == 3
    assert group.session.counter.steps == [3]
    assert len(group.session.followed) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 1


def test_a_hook_on_the_group_is_called_once_a_step_and_one_on_a_member_for_its_own():
    group = group_of(*(sparse.SET(sparsity=0.5, update=1) for _ in range(2)))
    model, optimizer = attach(group)
    calls = {"group": [], "member": [], "steps": []}
    group.register_mask_update_hook(lambda update: calls["group"].append(update.name))
    group[1].register_mask_update_hook(lambda update: calls["member"].append(update.name))
    group._hooks.register("end", lambda step: calls["steps"].append(step.number))
    train(model, optimizer, 2)
    assert calls["group"] == ["0.weight", "2.weight"] * 2
    assert calls["member"] == ["2.weight"] * 2
    assert calls["steps"] == [1, 2]


def test_an_algorithm_that_was_applied_alone_cannot_join():
    alone = sparse.Static(0.5)
    alone.apply(make_mlp())
    with pytest.raises(AttachError, match="already applied; add it to the Group before apply"):
        sparse.Group().add("*", alone)
    alone.remove()
    group = sparse.Group()
    group.add("*", alone)
    assert alone.session is group.session


def test_steps_of_an_algorithm_that_joins_are_kept():
    trained = sparse.SET(sparsity=0.5, update=1)
    model = make_mlp()
    trained.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    trained.apply(optimizer)
    train(model, optimizer, 4)
    state = trained.state_dict()
    fresh = sparse.SET(sparsity=0.5, update=1)
    fresh.load_state_dict(state)
    group = sparse.Group([("*", fresh)])
    assert group.step == 4
    assert group.state_dict()["algorithms"] == [state]


def test_updates_by_hand_join_the_step_that_was_counted():
    group = group_of(*(sparse.SET(sparsity=0.5, update=1) for _ in range(2)))
    model, optimizer = attach(group)
    group[1].autoupdate = False
    names = []
    group.register_mask_update_hook(lambda update: names.append((update.step, update.name)))
    train(model, optimizer, 1)
    group[1].update(optimizer)
    assert names == [(1, "0.weight"), (1, "2.weight")]
    group[1].update(optimizer)
    assert group.step == 2
    assert names[-1] == (2, "2.weight")


class Together(sparse.DynamicSparsityAlgorithm):
    """Prune the smallest weights of all layers together."""

    extra = 0

    def update_masks(self, updates):
        sizes = torch.cat([update.weight.detach().abs().flatten() for update in updates])
        level = float(updates[0].level)
        bar = sizes.sort().values[int(level * len(sizes)) - 1]
        self.seen = [(update.name, update.step, update.structure) for update in updates]
        masks = [update.weight.abs() > bar for update in updates]
        return masks + masks[: self.extra] if self.extra >= 0 else masks[: self.extra]

    def update_mask(self, p, mask, sparsity):
        raise AssertionError("update_masks is what is called")


@pytest.mark.parametrize("storage", ["masked", "compressed", "shadowed"])
def test_a_method_may_look_at_all_layers_together(storage):
    sparsity = Together(0.5, update={"steps": [2]}, storage=storage)
    model, optimizer = attach(sparsity)
    train(model, optimizer, 3)
    kept = {name: parameter.kept for name, parameter in sparsity.sparse_params.items()}
    assert sum(kept.values()) == 96
    assert kept != {"0.weight": 64, "2.weight": 32}
    assert [(name, step) for name, step, _ in sparsity.seen] == [("0.weight", 2), ("2.weight", 2)]


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (-1, r"it returned no mask for '2.weight'; return one per weight, in order"),
        (1, r"it returned more masks than weights \(2\); return one per weight, in order"),
    ],
)
def test_as_many_masks_as_weights(extra, problem):
    sparsity = Together(0.5, update={"steps": [2]})
    sparsity.extra = extra
    model, optimizer = attach(sparsity)
    with pytest.raises(AlgorithmError, match=problem):
        train(model, optimizer, 2)


def test_a_bad_choice_changes_nothing():
    sparsity = sparse.SET(sparsity=0.75, update=1)
    before = repr(sparsity)
    with pytest.raises(sparse.errors.LevelError, match=r"0\.5"):
        sparsity.structure = "2:4"
    sparsity.distribution = "erk"
    with pytest.raises(sparse.errors.OptionError):
        sparsity.structure = "2:4"
    sparsity.distribution = None
    assert repr(sparsity) == before


def test_two_modules_two_optimizers_and_a_group():
    model = nn.ModuleDict({"a": make_mlp(0), "b": make_mlp(1)})
    group = sparse.Group(
        [("a.*", sparse.RigL(sparsity=0.5, update=2)), ("b.*", sparse.SET(sparsity=0.5, update=3))]
    )
    group.apply(model)
    fast, slow = SGD(model["a"].parameters(), 0.1), SGD(model["b"].parameters(), 0.1)
    group.apply(fast)
    group.apply(slow)
    names = []
    group.register_mask_update_hook(lambda update: names.append((update.step, update.name)))
    for step in range(6):
        train(model["a"], fast, 1, start=step)
        if step % 2:
            train(model["b"], slow, 1, start=step)
    assert (group.step, group[0].step, group[1].step) == (6, 6, 3)
    assert [step for step, name in names if name == "a.0.weight"] == [2, 4, 6]
    assert [step for step, name in names if name == "b.0.weight"] == [3]
    states = group.state_dict()["algorithms"]
    assert [state["steps"] for state in states] == [[6, 0], [0, 3]]
    again = sparse.Group(
        [("a.*", sparse.RigL(sparsity=0.5, update=2)), ("b.*", sparse.SET(sparsity=0.5, update=3))]
    )
    again.load_state_dict(group.state_dict())
    assert again.session.counter.steps == [6, 3]
    assert again.step == 6


@pytest.mark.parametrize("make", [lambda: sparse.SET(sparsity=0.5, update=1), None])
def test_a_shallow_copy_leaves_what_is_attached(make):
    if make is None:
        sparsity = group_of(*(sparse.SET(sparsity=0.5, update=1) for _ in range(2)))
    else:
        sparsity = make()
    model, optimizer = attach(sparsity)
    train(model, optimizer, 2)
    copied = copy.copy(sparsity)
    assert (sparsity.num_sparse_params, copied.num_sparse_params) == (2, 0)
    assert (repr(copied), copied.step) == (repr(sparsity), 2)
    train(model, optimizer, 1, start=2)
    assert (sparsity.step, copied.step) == (3, 2)
    sparsity.remove()
    assert list(model.state_dict()) == list(make_mlp().state_dict())


def test_a_refused_state_of_a_group_keeps_the_counts_of_all_optimizers():
    group = group_of(*(sparse.SET(sparsity=0.5, update=1) for _ in range(2)))
    model = make_mlp()
    group.apply(model)
    optimizers = [SGD(model[i].parameters(), 0.1) for i in (0, 2)]
    for optimizer, steps in zip(optimizers, (5, 3), strict=True):
        group.apply(optimizer)
        train(model, optimizer, steps)
    bad = copy.deepcopy(group.state_dict())
    bad["algorithms"][1]["seed"] = "x"
    with pytest.raises(sparse.errors.StateError):
        group.load_state_dict(bad)
    assert [algorithm.step for algorithm in group] == [5, 3]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.b.weight = self.a.weight


def test_a_removed_algorithm_leaves_tied_weights_alone():
    model = Tied()
    group = sparse.Group([("a.*", sparse.Static(0.5)), ("c.weight", sparse.Static(0.5))])
    group.apply(model)
    group[0].remove()
    model.load_state_dict(model.state_dict())
    assert set(group.sparse_params) == {"c.weight"}


def test_a_group_takes_its_algorithms_back():
    first, second = sparse.Group({"*weight": sparse.SET(sparsity=0.5, update=1)}), sparse.Group()
    second.extend(first)
    model, optimizer = attach(first)
    train(model, optimizer, 2)
    assert (first.step, first.num_sparse_params) == (2, 2)
    with pytest.raises(AttachError, match="applied as part of another Group; create a new one"):
        second.apply(make_mlp())
    first.remove()
    assert list(model.state_dict()) == list(make_mlp().state_dict())


def test_a_step_by_hand_of_an_optimizer_that_is_not_followed_is_of_its_parameters():
    model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update=1)
    sparsity.apply(model)
    masks = [model[i].weight_mask.clone() for i in (0, 2)]
    optimizer = SGD(model[0].parameters(), 0.1)
    train(model, optimizer, 1)
    sparsity.update(optimizer)
    assert not torch.equal(model[0].weight_mask, masks[0])
    assert torch.equal(model[2].weight_mask, masks[1])


def test_counts_of_others_stay_when_an_algorithm_leaves():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    algorithms = [sparse.SET(sparsity=0.5, update=1) for _ in range(3)]
    group = sparse.Group([(f"{i}.weight", each) for i, each in enumerate(algorithms)])
    group.apply(model)
    for index, steps in enumerate((2, 9, 5)):
        optimizer = SGD(model[index].parameters(), 0.1)
        group[index].apply(optimizer)
        for _ in range(steps):
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
    group[0].remove()
    assert [algorithm.step for algorithm in group][1:] == [9, 5]


def test_the_process_group_of_an_algorithm_that_joins_stays():
    alone = sparse.Static(0.5)
    alone.process_group = None
    assert sparse.Group({"*": alone}).process_group is None
