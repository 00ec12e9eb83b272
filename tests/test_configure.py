"""Groups from configs in the current dialect."""

import warnings

import pytest
import torch

import sparsewright as sparse
from helpers.support import UserDefined, UserStatic, kept_of, make_mlp
from sparsewright.configure import default_sparse_param_filter
from sparsewright.errors import (
    ExclusiveOptionsError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
)
from sparsewright.utils import Constant, Cosine, Cycling, Linear, ListSchedule


def one(config):
    """Return the only algorithm of a config."""
    group = sparse.configure(config)
    assert isinstance(group, sparse.Group)
    assert len(group) == 1
    return group[0]


@pytest.mark.parametrize("level", [0.5, 0, 0.25])
def test_a_number_is_static(level):
    algorithm = one(level)
    assert type(algorithm) is sparse.Static
    assert algorithm.schedules["sparsity"] == Constant(level)


@pytest.mark.parametrize(
    ("name", "cls", "level"),
    [
        ("static", sparse.Static, 0.5),
        ("gmp", sparse.GMP, [0.1, 0.5]),
        ("set", sparse.SET, 0.5),
        ("rigl", sparse.RigL, 0.5),
        ("RigL", sparse.RigL, 0.5),
        ("STATIC", sparse.Static, 0.5),
        ("UserDefined", UserDefined, 0.5),
        ("UserStatic", UserStatic, 0.5),
        (UserDefined, UserDefined, 0.5),
        (sparse.RigL, sparse.RigL, 0.5),
    ],
)
def test_algorithms_by_name_and_class(name, cls, level):
    assert type(one({"algorithm": name, "sparsity": level})) is cls


def test_every_option_arrives():
    algorithm = one(
        {
            "algorithm": "rigl",
            "sparsity": {"type": "linear", "init": 0.1, "slope": 0.01},
            "update": {"steps": [3, 7]},
            "init_method": "topk",
            "drop_fraction": {"type": "cosine", "init": 0.3, "half_period": 100},
            "balance_in_groups": 2,
            "seed": 7,
        }
    )
    assert algorithm.schedules["sparsity"] == Linear(0.1, 0.01)
    assert algorithm.schedules["drop_fraction"] == Cosine(0.3, 100)
    assert isinstance(algorithm.update_schedule, ListSchedule)
    assert algorithm.update_schedule.steps(99) == [3, 7]
    assert algorithm.init_method is sparse.init.topk
    assert repr(algorithm.score_shaper) == "Groups(inputs=2)"
    assert algorithm.seed == 7
    balanced = one({"algorithm": "rigl", "sparsity": 0.5, "balance_out_groups": 4})
    assert repr(balanced.score_shaper) == "Groups(outputs=4)"


def test_schedule_is_an_alias_of_sparsity():
    for name in ("gmp", "set"):
        algorithm = one({"algorithm": name, "schedule": [0.1, 0.2]})
        assert algorithm.schedules["sparsity"] == Cycling([0.1, 0.2])


def test_type_is_a_deprecated_alias_of_algorithm():
    with pytest.warns(DeprecationWarning, match="'type' is deprecated; use 'algorithm'") as record:
        assert type(one({"type": "set", "sparsity": 0.5})) is sparse.SET
    assert record[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="'type' is deprecated"):
        sparse.configure({"type": "set", "sparsity": 0.5, "param_filter": {"a": None}})


def test_the_present_dialect_does_not_warn():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        sparse.configure([{"algorithm": "set", "sparsity": 0.5, "update": 3}])
    assert record == []


def test_a_list_gives_entries_in_order():
    group = sparse.configure(
        [
            {"algorithm": "set", "sparsity": 0.5, "param_filter": "a.*"},
            {"algorithm": "static", "sparsity": 0.2},
        ]
    )
    assert [type(algorithm) for algorithm in group] == [sparse.SET, sparse.Static]
    assert len(sparse.configure([])) == 0


def test_missing_filter_is_the_default_filter():
    model = torch.nn.ModuleDict({"norm": torch.nn.Linear(4, 4), "fc": torch.nn.Linear(4, 4)})
    group = sparse.configure(0.5)
    group.apply(model)
    assert list(group.sparse_params) == ["fc.weight"]
    assert default_sparse_param_filter is sparse.default_sparse_param_filter


@pytest.mark.parametrize(
    ("param_filter", "expected"),
    [
        ("0.*", {"0.weight": 64, "0.bias": 8}),
        (["2.weight", "0.weight"], {"0.weight": 64, "2.weight": 32}),
        (lambda name, param: param.numel() == 64, {"2.weight": 32}),
    ],
)
def test_filters(param_filter, expected):
    group = sparse.configure({"algorithm": "static", "sparsity": 0.5, "param_filter": param_filter})
    group.apply(make_mlp())
    assert kept_of(group) == expected


def test_a_dict_of_filters_lays_options_over_the_rest():
    """FIX: each glob has its own options."""
    group = sparse.configure(
        {
            "algorithm": "static",
            "sparsity": 0.5,
            "param_filter": {
                "0.weight": {"sparsity": 0.75},
                "2.weight": {"algorithm": "gmp", "schedule": [0.25, 0.5]},
                "*.bias": None,
            },
        }
    )
    assert [type(algorithm) for algorithm in group] == [sparse.Static, sparse.GMP, sparse.Static]
    group.apply(make_mlp())
    assert kept_of(group) == {"0.weight": 32, "0.bias": 8, "2.weight": 48, "2.bias": 2}


@pytest.mark.parametrize("key", ["groups", "params"])
def test_nesting_is_flattened_and_outer_keys_are_defaults(key):
    group = sparse.configure(
        {
            "algorithm": "set",
            "update": {"freq": 4},
            "sparsity": 0.5,
            key: [
                {"param_filter": "a.*"},
                {"param_filter": "b.*", "sparsity": 0.75, "update": 9},
                {key: [{"algorithm": "rigl"}], "drop_fraction": 0.1},
            ],
        }
    )
    assert [type(algorithm) for algorithm in group] == [sparse.SET, sparse.SET, sparse.RigL]
    levels = [float(a.schedules["sparsity"](0)) for a in group]
    assert levels == [0.5, 0.75, 0.5]
    assert [algorithm.update_schedule.freq for algorithm in group] == [4, 9, 4]
    assert float(group[2].schedules["drop_fraction"](0)) == pytest.approx(0.1)


def test_a_single_nested_entry_needs_no_list():
    assert type(one({"groups": {"algorithm": "static", "sparsity": 0.5}})) is sparse.Static


def test_inner_entries_override_outer_ones_under_either_name():
    outer = {"algorithm": "gmp", "sparsity": [0.1, 0.2]}
    algorithm = one({**outer, "groups": [{"schedule": [0.3, 0.4]}]})
    assert algorithm.schedules["sparsity"] == Cycling([0.3, 0.4])
    with pytest.warns(DeprecationWarning, match="'type'"):
        assert type(one({**outer, "groups": [{"type": "set"}]})) is sparse.SET


def test_sparsity_null_is_none():
    assert sparse.configure(None) is None
    assert sparse.configure({"sparsity": None}) is None


def test_no_level_is_needed_where_the_zeros_are_the_mask():
    algorithm = one({"algorithm": "static", "sparsity": None, "init_method": "from_zeros"})
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
    algorithm.apply(torch.nn.Sequential(layer))
    assert kept_of(algorithm) == {"0.weight": 3}


def test_the_config_is_not_changed():
    config = {
        "algorithm": "set",
        "schedule": 0.5,
        "groups": [{"param_filter": {"a": {"sparsity": 0.2}}}, {"update": {"freq": 3}}],
    }
    before = repr(config)
    sparse.configure(config)
    assert repr(config) == before


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            "rigl",
            OptionTypeError,
            r"^sparsity must be a number, a dict or a list of dicts; got 'rigl' \(str\)",
        ),
        (True, OptionTypeError, r"^sparsity must be .*; got True \(bool\)\.$"),
        ([0.5], OptionTypeError, r"^an entry of sparsity must be a dict; got 0.5 \(float\)"),
        (1.5, ValueError, r"^sparsity must be between 0 and 1; got 1\.5\.$"),
        (1, ValueError, r"^sparsity of Static must be at least 0 and less than 1; got 1"),
        ({1: 2}, OptionTypeError, r"^a key of sparsity must be a string; got 1 \(int\)\.$"),
        (
            {"sparsity": 0.5},
            MissingOptionError,
            r"^sparsity needs the option 'algorithm'; got {'sparsity': 0.5}\. Choose from static",
        ),
        (
            {"algorithm": "rigel", "sparsity": 0.5},
            OptionError,
            r"^unknown algorithm 'rigel'; did you mean 'rigl'",
        ),
        ({"algorithm": "UserDefind", "sparsity": 1}, OptionError, r"did you mean 'UserDefined'"),
        (
            {"algorithm": 3, "sparsity": 0.5},
            OptionTypeError,
            r"^algorithm must be a name or a subclass .*; got 3 \(int\)",
        ),
        (
            {"algorithm": int, "sparsity": 0.5},
            OptionTypeError,
            r"^algorithm must be .*; got <class 'int'>",
        ),
        (
            {"algorithm": sparse.DynamicSparsityAlgorithm, "sparsity": 0.5},
            OptionError,
            r"^algorithm must be a class that implements update_mask; got <class",
        ),
        (
            {"algorithm": "rigl", "sparsity": 0.5, "drop_fracton": 0.1},
            OptionError,
            r"^RigL has no option 'drop_fracton'; .*'drop_fraction'\? Its .* balance_in_groups",
        ),
        (
            {"algorithm": "static", "sparsity": 0.5, "update": 3},
            OptionError,
            r"^Static has no option 'update'; its options: sparsity, init_method, seed, storage",
        ),
        (
            {"algorithm": "gmp", "sparsity": [0.5], "schedule": [0.5]},
            ExclusiveOptionsError,
            r"^give sparsity or schedule, not both\.$",
        ),
        (
            {"algorithm": "set", "type": "set", "sparsity": 0.5},
            ExclusiveOptionsError,
            r"^give algorithm or type, not both\.$",
        ),
        (
            {"algorithm": "gmp", "sparsity": 0.5},
            OptionError,
            r"For a constant level, use Static\.$",
        ),
        (
            {"algorithm": "static", "sparsity": [0.5]},
            OptionError,
            r"For a level that changes, use GMP\.$",
        ),
        (
            {"algorithm": "set", "sparsity": "0.5"},
            OptionTypeError,
            r"^sparsity must be .*; got '0\.5' \(str\)\.$",
        ),
        (
            {"algorithm": "set"},
            MissingOptionError,
            r"^SET needs the option 'sparsity': a number from 0 to 1",
        ),
        (
            {"algorithm": "set", "sparsity": -0.1},
            ValueError,
            r"^sparsity must be between 0 and 1; got -0\.1\.$",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "drop_fraction": 2},
            ValueError,
            r"^drop_fraction must be between 0 and 1; got 2\.0\.$",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "update": "5"},
            OptionTypeError,
            r"^update must be .*; got '5'",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "seed": "5"},
            OptionTypeError,
            r"^seed must be an integer; got '5'",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "init_method": "tokp"},
            OptionError,
            r"^unknown init_method 'tokp'; did you mean 'topk'",
        ),
        (
            {"algorithm": "rigl", "sparsity": 0.1, "balance_in_groups": 0},
            OptionError,
            r"^balance_in_groups must be an integer >= 1; got 0\.$",
        ),
        (
            {"algorithm": "rigl", "sparsity": 0, "balance_in_groups": 1, "balance_out_groups": 2},
            ExclusiveOptionsError,
            r"^RigL accepts balance_in_groups or balance_out_groups, not both\.$",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "param_filter": 3},
            OptionTypeError,
            r"^param_filter must be .*; got 3",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "param_filter": {"a": 3}},
            OptionTypeError,
            r"^param_filter\['a'\] must be a dict of options; got 3 \(int\)\.$",
        ),
        (
            {"algorithm": "set", "sparsity": 0.1, "param_filter": {3: {}}},
            OptionTypeError,
            r"^a key of param_filter must be a glob; got 3",
        ),
        (
            {"groups": [], "params": []},
            ExclusiveOptionsError,
            r"^give groups or params, not both\.$",
        ),
        ({"groups": 3}, OptionTypeError, r"^groups must be a list of dicts; got 3 \(int\)"),
        ({"groups": [3]}, OptionTypeError, r"^an entry of sparsity must be a dict; got 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:the key 'type'")
def test_bad_input_raises_one_clear_error(config, error, message):
    with pytest.raises(error, match=message):
        sparse.configure(config)


def test_a_param_filter_without_a_pattern_is_an_error():
    with pytest.raises(
        OptionError, match=r"^param_filter must be a dict with at least one glob; got {}\.$"
    ):
        sparse.configure({"algorithm": "static", "sparsity": 0.5, "param_filter": {}})
