"""Text for values and names in messages."""

import torch

from sparsewright.wording import close_names, first_of, hint, listed, show


def test_close_names():
    assert close_names("Drop_Fracton", ["sparsity", "drop_fraction"]) == ["drop_fraction"]
    assert set(close_names("fc1", ["fc2", "fc3", "norm"], most=3)) == {"fc2", "fc3"}
    assert close_names(3, ["fc"]) == []


def test_hints_are_for_names_of_a_list_only():
    assert hint("rigel", ["rigl", "set"]) == "; did you mean 'rigl'?"
    assert hint("xyz", ["rigl", "set"]) == ""
    assert hint("rigel", "a name such as rigl") == ""
    assert hint(3, ["3"]) == ""
    assert hint("rigl" * 100, ["rigl" * 100]) == ""


def test_what_is_allowed_is_a_list_or_a_sentence():
    assert listed(["rigl", "set"]) == "rigl, set"
    assert listed("an integer >= 1") == "an integer >= 1"
    assert listed([]) == "nothing"


def test_long_lists_of_names_are_cut():
    assert first_of([]) == ""
    assert first_of(["a", "b"], most=2) == "a, b"
    assert first_of(list("abcde"), most=2) == "a, b and 3 more"


def test_objects_with_long_representations_are_shown_by_class():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert show([model]) == "[<Sequential>]"


def test_values_are_shown_on_one_short_line():
    assert show(torch.zeros(1000, 3)) == "<float32 Tensor of shape (1000, 3)>"
    assert show("a\nb") == "'a\\nb'"
    assert show(10**5000) == "<int>"
    for long in ("x" * 1000, [[0.125] * 9] * 99, {n: [n] for n in range(99)}):
        assert len(show(long)) <= 160
        assert "..." in show(long)
