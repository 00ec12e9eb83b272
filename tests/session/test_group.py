"""Groups: ordered filters for several algorithms."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import kept_of, make_mlp, masks_of, train
from sparsewright.errors import AttachError, OptionTypeError, SparsityWarning, StateError
from sparsewright.utils import Cycling


def two(first="0.*", second="2.weight"):
    """Return a Group of SET and Static that is applied to an MLP, and the MLP."""
    group = sparse.Group(
        {
            first: sparse.SET(sparsity=0.5, update=2),
            second: sparse.Static(0.75),
        }
    )
    model = make_mlp()
    group.apply(model)
    return group, model


def test_the_first_match_wins():
    group = sparse.Group([("0.weight", sparse.Static(0.75)), ("*.weight", sparse.Static(0.5))])
    group.apply(make_mlp())
    assert kept_of(group) == {"0.weight": 32, "2.weight": 32}
    assert kept_of(group[0]) == {"0.weight": 32}
    assert kept_of(group[1]) == {"2.weight": 32}


def test_globs_match_the_whole_full_name():
    model = nn.ModuleDict({"a": make_mlp(), "b": make_mlp()})
    group = sparse.Group({"a.0.weight": sparse.Static(0.5)})
    group.apply(model)
    assert list(group.sparse_params) == ["a.0.weight"]


def test_functions_get_full_name_and_parameter():
    model, seen = nn.ModuleDict({"a": make_mlp()}), {}

    def picks(name, param):
        seen[name] = param
        return name == "a.2.weight"

    group = sparse.Group([(picks, sparse.Static(0.5))])
    group.apply(model)
    assert {name: id(p) for name, p in seen.items()} == {
        name: id(p) for name, p in model.named_parameters()
    }
    assert list(group.sparse_params) == ["a.2.weight"]


def test_add_extend_index_iterate_length():
    first, second, third = sparse.Static(0.5), sparse.Static(0.5), sparse.Static(0.5)
    group, other = sparse.Group(), sparse.Group({"c": third})
    group.add("a", first)
    group.add(["b", "bb"], second)
    group.extend(other)
    assert len(group) == 3
    assert list(group) == [first, second, third]
    assert group[1] is second
    assert group[-1] is third
    with pytest.raises(IndexError):
        group[3]


def test_a_group_may_extend_itself():
    group = sparse.Group({"0.weight": sparse.Static(0.5)})
    group.extend(group)
    assert len(group) == 2
    assert len(group.algorithms) == 1


def test_one_algorithm_may_have_several_routes():
    static = sparse.Static(0.5)
    group = sparse.Group([("0.weight", static), ("2.weight", static)])
    group.apply(make_mlp())
    assert group.algorithms == [static]
    assert group.num_sparse_params == static.num_sparse_params == 2
    assert len(group.state_dict()["algorithms"]) == 1


def test_adding_a_group_says_extend():
    with pytest.raises(
        OptionTypeError, match=r"^algorithm must be a single .* Use extend\(\) to add all"
    ):
        sparse.Group().add("a", sparse.Group())
    with pytest.raises(TypeError, match=r"^algorithm must be a SparsityAlgorithm; got 0\.5"):
        sparse.Group().add("a", 0.5)
    with pytest.raises(
        TypeError, match=r"^group must be a Group; got <?Static.* Use add\(\) to add"
    ):
        sparse.Group().extend(sparse.Static(0.5))
    with pytest.raises(TypeError, match=r"^param_filter must be a glob, .*; got 3"):
        sparse.Group().add(3, sparse.Static(0.5))


def test_sparsity_of_a_group_says_to_index():
    group, _ = two("0.weight")
    with pytest.raises(AttachError, match=r"use group\[i\].sparsity"):
        _ = group.sparsity
    levels = [float(schedule(0)) for schedule in group[1].sparsity.values()]
    assert levels == [0.75]


def test_a_filter_that_matches_nothing_warns_with_close_names():
    group = sparse.Group({"0.weigth": sparse.Static(0.5), "*.weight": sparse.Static(0.5)})
    with pytest.warns(
        SparsityWarning, match=r"'0.weigth' matched no parameter; similar names: 0.weight"
    ):
        group.apply(make_mlp())
    assert group.num_sparse_params == 2


def test_a_function_that_matches_nothing_warns_too():
    group = sparse.Group([(lambda name, param: False, sparse.Static(0.5))])
    group.add("*.weight", sparse.Static(0.5))
    with pytest.warns(SparsityWarning, match=r"the filter <function .* matched no parameter"):
        group.apply(make_mlp())


def test_a_filter_that_an_earlier_one_leaves_nothing_warns():
    group = sparse.Group({"*": sparse.Static(0.5), "0.weight": sparse.Static(0.5)})
    text = "'0.weight' has no effect: an earlier filter already matches 0.weight, or it must"
    with pytest.warns(SparsityWarning, match=text):
        group.apply(make_mlp())


def test_an_empty_group_warns():
    model = make_mlp()
    with pytest.warns(SparsityWarning, match="no parameter was sparsified; available: 0.weight"):
        sparse.Group().apply(model)
    with pytest.warns(SparsityWarning, match="the Group is empty, so nothing is sparsified"):
        sparse.Group().apply(SGD(model.parameters(), 0.1))


def test_sparsify_parameter_goes_to_the_first_match():
    group = sparse.Group({"2.*": sparse.Static(0.75), "*": sparse.Static(0.5)})
    model = make_mlp()
    group.sparsify_parameter(model, "2.weight", model[2].weight)
    group.initialize()
    assert kept_of(group[0]) == {"2.weight": 16}
    lonely = sparse.Group({"0.*": sparse.Static(0.5)})
    with pytest.raises(AttachError, match=r"2.weight: it matches no filter of the Group$"):
        lonely.sparsify_parameter(model, "2.weight", model[2].weight)


def test_get_sparse_params():
    group, model = two("0.weight")
    assert group.get_sparse_params(model[2].weight) is group[1].sparse_params["2.weight"]
    assert group.get_sparse_params(model[2].bias) is None
    assert [p.name for p in group.get_sparse_params(model)] == ["0.weight", "2.weight"]
    assert [p.name for p in group.get_sparse_params(model[2])] == ["2.weight"]
    with pytest.raises(TypeError, match="get_sparse_params"):
        group.get_sparse_params("0.weight")


def test_hints_are_those_of_the_algorithm():
    group, _ = two("0.weight")
    parameter = group.sparse_params["2.weight"]
    parameter.annotations.clear()
    group.csx_annotate_sparsity(parameter)
    assert parameter.annotations == {"min_sparsity": 0.75, "max_sparsity": 0.75, "sparsity": 0.75}


def test_autoupdate_and_update_reach_all():
    group, model = two("0.weight")
    optimizer = SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    group.autoupdate = False
    assert not group[0].autoupdate
    train(model, optimizer, 2)
    assert group.step == 0
    group.update(optimizer)
    group.update()
    assert [algorithm.step for algorithm in group] == [2, 2]
    group.autoupdate = True
    train(model, optimizer, 1)
    assert group.step == 3


def test_step_counts_for_all_and_masks_follow_each_algorithm():
    group, model = two("0.weight")
    optimizer = SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    before = masks_of(group)
    train(model, optimizer, 2)
    after = masks_of(group)
    assert not torch.equal(before["0.weight"], after["0.weight"])
    assert torch.equal(before["2.weight"], after["2.weight"])
    assert group.step == 2


def test_state_of_a_group_that_fails_half_way_changes_nothing():
    group, model = two("0.weight")
    optimizer = SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    train(model, optimizer, 3)
    good = group.state_dict()
    bad = {**good, "algorithms": [{**good["algorithms"][0], "steps": [9]}, {}]}
    with pytest.raises(StateError, match="Static: missing"):
        group.load_state_dict(bad)
    assert group.state_dict() == good
    for wrong in ({}, [], {"algorithms": good["algorithms"][:1]}):
        with pytest.raises(StateError, match="Group"):
            group.load_state_dict(wrong)
    with pytest.raises(StateError, match=r"Group: it has 2 algorithms, but the state has 1$"):
        group.load_state_dict({**good, "algorithms": good["algorithms"][:1]})
    with pytest.raises(StateError, match=r"Group: algorithms must be a list, not 3$"):
        group.load_state_dict({**good, "algorithms": 3})


def test_remove_takes_all_algorithms_off():
    group, model = two("0.weight")
    group.remove()
    assert group.num_sparse_params == 0
    assert list(model.state_dict()) == list(make_mlp().state_dict())


def test_representation_shows_routes():
    assert repr(two("0.weight")[0]) == (
        "Group([('0.weight', SET(sparsity=0.5, update=FreqSchedule(freq=2, start=0, stop=None))), "
        "('2.weight', Static(sparsity=0.75))])"
    )


def test_what_is_set_on_a_group_reaches_later_entries():
    group, other, seen = sparse.Group(), sparse.Group(), []
    handle = group.register_mask_update_hook(lambda update: seen.append(update.name))
    group.autoupdate, group.storage, group.process_group = False, "compressed", None
    group.add("0.weight", sparse.SET(sparsity=0.5, update=1))
    other.add("2.weight", sparse.SET(sparsity=0.5, update=1))
    group.extend(other)
    for algorithm in group:
        assert not algorithm.autoupdate
        assert algorithm.storage == "compressed"
        assert algorithm.process_group is None
    assert (group.autoupdate, group.storage, group.process_group) == (False, "compressed", None)
    group[1].storage = "masked"
    assert group.storage == "mixed"
    group.autoupdate = True
    model = make_mlp()
    group.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    train(model, optimizer, 1)
    assert seen == ["0.weight", "2.weight"]
    handle.remove()
    group.add("nothing", sparse.SET(sparsity=0.5, update=1))
    train(model, optimizer, 1)
    assert len(seen) == 2


def test_a_copy_of_a_group_has_no_hooks():
    group, seen = sparse.Group(), []
    group.register_mask_update_hook(seen.append)
    copied = copy.deepcopy(group)
    copied.add("*", sparse.SET(sparsity=0.5, update=1))
    model = make_mlp()
    copied.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    copied.apply(optimizer)
    train(model, optimizer, 1)
    assert seen == []


def test_a_schedule_given_to_two_algorithms_moves_in_each_alone():
    cycle, levels = Cycling([0.1, 0.2, 0.3, 0.4]), []
    group = sparse.Group(
        [(f"{name}.weight", sparse.SET(cycle, sparsity=cycle, update=1)) for name in (0, 2)]
    )
    model = make_mlp()
    group.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    group.register_mask_update_hook(lambda update: levels.append(update.target))
    train(model, optimizer, 3)
    assert levels == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert cycle.index == 0
