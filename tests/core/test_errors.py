"""The whole tree of errors: every message names thing, value, what is allowed, a close name."""

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
        ["algorithm", "'rigel'", "rigl, set", "did you mean 'rigl'?"],
    ),
    errors.OptionTypeError: (
        TypeError,
        ("sparsity", "0.9", "a number"),
        ["sparsity", "'0.9'", "type str", "allowed: a number"],
    ),
    errors.LevelError: (ValueError, ("sparsity", 1.5), ["sparsity", "1.5", "0 <= level <= 1"]),
    errors.ShapeError: (
        ValueError,
        ("fc.weight", (3, 5), "5 cannot be divided into 2 groups"),
        ["fc.weight", "(3, 5)", "5 cannot be divided into 2 groups"],
    ),
    errors.ScoreError: (ValueError, ("score of fc.weight",), ["score of fc.weight", "NaN"]),
    errors.StateError: (ValueError, ("RigL", "missing: steps"), ["RigL", "missing: steps"]),
    errors.AttachError: (RuntimeError, ("fc.weight", "no shape"), ["fc.weight", "no shape"]),
    errors.ConfigError: (ValueError, ("run.yaml", "no model"), ["run.yaml", "no model"]),
    errors.CheckpointError: (ValueError, ("a.pt", "truncated"), ["a.pt", "truncated"]),
    errors.RunError: (OSError, ("runs/1", "exists"), ["runs/1", "exists"]),
    errors.DivergenceError: (
        ArithmeticError,
        ("the loss", float("nan"), 12),
        ["the loss", "nan", "step 12", "optimizer.lr"],
    ),
    errors.MissingPackageError: (
        ImportError,
        ("a figure", "matplotlib", "plot"),
        ["a figure", "'matplotlib'", "pip install 'sparsewright[plot]'"],
    ),
}


def test_the_table_lists_every_error():
    found = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.SparsewrightError) and cls is not errors.SparsewrightError
    }
    assert found == set(TREE)


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


def test_option_error_in_a_place_without_a_close_name():
    error = errors.OptionError("key", "xyz", ["freq", "start"], where="update")
    assert str(error) == "key = 'xyz' in update is not valid; allowed: freq, start"
    assert str(errors.OptionError("key", 1, [])).endswith("allowed: nothing")


@pytest.mark.parametrize("cls", [errors.OptionError, errors.OptionTypeError])
def test_values_are_shown_on_one_short_line(cls):
    shown = str(cls("mask", torch.zeros(1000, 3), "a bool tensor"))
    assert "mask = <Tensor of shape (1000, 3)> " in shown
    shown = str(cls("sparsity", [[0.125] * 9] * 99, "a number"))
    assert len(shown) < 260
    assert "[0.125, " in shown
    assert "..." in shown
    assert "\n" not in str(cls("algorithm", torch.nn.Sequential(torch.nn.ReLU()), "a name"))


def test_close_names():
    assert errors.close_names("Drop_Fracton", ["sparsity", "drop_fraction"]) == ["drop_fraction"]
    assert set(errors.close_names("fc1", ["fc2", "fc3", "norm"], most=3)) == {"fc2", "fc3"}
    assert errors.close_names(3, ["fc"]) == []


def test_warnings_are_user_warnings():
    assert issubclass(errors.SparsityWarning, UserWarning)
    with pytest.warns(errors.SparsityWarning, match=r"nothing happened"):
        errors.warn("nothing happened")
