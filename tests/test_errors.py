"""The tree of errors; each message names the option, its value and what is allowed."""

import inspect
import pickle
import re

import pytest
import torch

from sparsewright import errors

TREE = {
    errors.OptionError: (
        ValueError,
        ("algorithm", "rigel", ["rigl", "set"]),
        ["unknown algorithm 'rigel'; did you mean 'rigl'? Choose from rigl, set."],
    ),
    errors.MissingOptionError: (
        ValueError,
        ("type", "update", ["freq", "list"], {"start": 5}),
        ["update needs the option 'type'; got {'start': 5}. Choose from freq, list."],
    ),
    errors.UnknownOptionError: (
        TypeError,
        ("RigL", "sparsiti", ["sparsity", "update"]),
        ["RigL has no option 'sparsiti'; did you mean 'sparsity'? Its options: sparsity, update."],
    ),
    errors.ExclusiveOptionsError: (
        ValueError,
        (["balance_in_groups", "balance_out_groups"],),
        ["give balance_in_groups or balance_out_groups, not both."],
    ),
    errors.IncompatibleOptionError: (
        ValueError,
        ("storage", "masked", "STE", "needs 'shadowed'"),
        ["storage='masked' does not work with STE, which needs 'shadowed'."],
    ),
    errors.OptionTypeError: (
        TypeError,
        ("sparsity", "0.9", "a number"),
        ["sparsity must be a number; got '0.9' (str)."],
    ),
    errors.LevelError: (
        ValueError,
        ("sparsity", 1.5),
        ["sparsity must be between 0 and 1; got 1.5."],
    ),
    errors.ShapeError: (
        ValueError,
        ("fc.weight", (3, 5), "5 cannot be divided into 2 groups"),
        ["fc.weight", "(3, 5)", "5 cannot be divided into 2 groups"],
    ),
    errors.ScoreError: (
        ValueError,
        ("score of fc.weight",),
        ["score of fc.weight contains NaN; its entries"],
    ),
    errors.AlgorithmError: (
        TypeError,
        ("Own.update_mask", "return a mask"),
        ["Own.update_mask", "return a mask"],
    ),
    errors.StateError: (ValueError, ("RigL", "missing: steps"), ["RigL", "missing: steps"]),
    errors.CalibrationError: (
        ValueError,
        ("the loss of batches[3]", "it is nan"),
        ["the loss of batches[3]: it is nan"],
    ),
    errors.AttachError: (RuntimeError, ("fc.weight", "no shape"), ["fc.weight", "no shape"]),
    errors.ConfigError: (ValueError, ("run.yaml", "no model"), ["run.yaml", "no model"]),
    errors.CheckpointError: (ValueError, ("a.pt", "truncated"), ["a.pt", "truncated"]),
    errors.RunError: (OSError, ("runs/1", "exists"), ["runs/1", "exists"]),
    errors.ReportError: (
        ValueError,
        (["runs/1", "runs/2"], "too large"),
        ["report of runs/1, runs/2: too large"],
    ),
    errors.DivergenceError: (
        ArithmeticError,
        ("the loss", float("nan"), 12),
        ["the loss is nan at step 12; try a smaller optimizer.lr"],
    ),
    errors.MissingPackageError: (
        ImportError,
        ("a figure", "matplotlib", "plot"),
        [
            "a figure needs the package 'matplotlib', which cannot be imported; "
            "run pip install 'sparsewright[plot]'"
        ],
    ),
}


def test_the_table_lists_every_error():
    found = {
        cls
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.SparsewrightError) and name[0] != "_"
    }
    assert found == {errors.SparsewrightError, *TREE}


def test_all_is_the_tree():
    names = {cls.__name__ for cls in TREE} | {"SparsewrightError", "SparsityWarning"}
    assert set(errors.__all__) == names


def test_the_docstring_draws_the_tree():
    drawn = dict(re.findall(r"[├└]── (\w+) +\((\w+)\)", errors.__doc__))
    assert drawn == {cls.__name__: builtin.__name__ for cls, (builtin, *_) in TREE.items()}


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_message_and_builtin_base(cls):
    builtin, args, parts = TREE[cls]
    error = cls(*args)
    assert isinstance(error, errors.SparsewrightError)
    assert isinstance(error, builtin)
    for part in parts:
        assert part in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_arguments_can_be_read_back(cls):
    _, args, _ = TREE[cls]
    error = cls(*args)
    names = list(inspect.signature(cls).parameters)
    for name, value in zip(names, args, strict=False):
        assert getattr(error, name) == value or value != value


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_errors_cross_process_boundaries(cls):
    _, args, _ = TREE[cls]
    error = cls(*args)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is cls
    assert str(twin) == str(error)
    assert list(vars(twin)) == list(vars(error))


def test_option_errors_that_have_nothing_more_to_say_are_short():
    assert str(errors.MissingOptionError("sparsity")) == "sparsity is required."
    shown = str(errors.MissingOptionError("n", "structure", "an integer"))
    assert shown == "structure needs the option 'n': an integer."
    shown = str(errors.MissingOptionError("algorithm", "sparsity", ["gmp", "set"]))
    assert shown == "sparsity needs the option 'algorithm'; choose from gmp, set."
    assert str(errors.UnknownOptionError("Uniform", "x")) == (
        "Uniform has no option 'x'; it has no options."
    )


def test_exclusive_options_say_where_and_how_many():
    shown = str(errors.ExclusiveOptionsError(["inputs", "outputs"], "structure 'groups'"))
    assert shown == "structure 'groups' accepts inputs or outputs, not both."
    shown = str(errors.ExclusiveOptionsError(["a", "b", "c"]))
    assert shown == "give a, b or c, but only one of them."


def test_an_incompatible_option_lists_what_works():
    facts = ("distribution", "erk", "structure=NM(2, 4)", "has only one level", ["uniform"])
    assert str(errors.IncompatibleOptionError(*facts)) == (
        "distribution='erk' does not work with structure=NM(2, 4), which has only one level. "
        "Use 'uniform'."
    )


@pytest.mark.parametrize("cls", errors.OptionError.__subclasses__())
def test_every_option_error_has_the_facts_of_its_base(cls):
    assert {"what", "value", "allowed"} <= set(vars(cls(*TREE[cls][1])))


def test_option_error_in_a_place_without_a_close_name():
    error = errors.OptionError("key", "xyz", ["freq", "start"], where="update")
    assert str(error) == "unknown key 'xyz' in update; choose from freq, start."
    assert str(errors.OptionError("key", 1, ["freq", "start"], where="update")) == (
        "key in update must be one of freq, start; got 1."
    )


def test_option_error_with_a_phrase_and_advice():
    error = errors.OptionError("freq", 0, "an integer >= 1", "run.yaml", advice="Use freq=1.")
    assert str(error) == "freq in run.yaml must be an integer >= 1; got 0. Use freq=1."


def test_types_are_named_once():
    for value, shown in (
        (None, "None"),
        (True, "True (bool)"),
        (torch.zeros(2), "<float32 Tensor of shape (2,)>"),
    ):
        text = str(errors.OptionTypeError("seed", value, "an integer", "Use 0."))
        assert text == f"seed must be an integer; got {shown}. Use 0."


@pytest.mark.parametrize("cls", [errors.OptionError, errors.OptionTypeError])
def test_values_are_shown_on_one_short_line(cls):
    shown = str(cls("mask", torch.zeros(1000, 3), "a bool tensor"))
    assert shown == "mask must be a bool tensor; got <float32 Tensor of shape (1000, 3)>."
    shown = str(cls("sparsity", [[0.125] * 9] * 99, "a number"))
    assert len(shown) < 260
    assert "[0.125, " in shown
    assert "..." in shown
    assert "\n" not in str(cls("algorithm", torch.nn.Sequential(torch.nn.ReLU()), "a name"))


def test_warnings_are_user_warnings():
    assert issubclass(errors.SparsityWarning, UserWarning)
    with pytest.warns(errors.SparsityWarning, match=r"nothing happened"):
        errors.warn("nothing happened")


def test_a_name_that_is_meant_is_suggested_whatever_its_spelling():
    error = errors.OptionError("algorithm", "magnitude", ["gmp", "set"], meant="gmp")
    assert str(error) == (
        "unknown algorithm 'magnitude'; did you mean 'gmp'? Choose from gmp, set."
    )


def test_an_unknown_option_is_a_value_error_too():
    assert issubclass(errors.UnknownOptionError, ValueError)
