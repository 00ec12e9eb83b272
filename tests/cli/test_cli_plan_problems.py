"""`sparsewright plan` lists all mistakes in a configuration in one run."""

from __future__ import annotations

import json

import pytest

from helpers.cli_process import Command
from helpers.planned import ENTRY, lines_of


def test_all_problems_of_all_entries_in_one_run(plan) -> None:
    content = [
        {**ENTRY, "param_filter": "0.weight", "balance_in_groups": 3, "drop_fracton": 0.1},
        {
            "algorithm": "set",
            "sparsity": 1.9,
            "update": {"frq": 3},
            "seeed": 1,
            "drop_fraction": -1,
            "init_method": "topq",
            "param_filter": "2.weigth",
        },
        {"algorithm": "rigel", "sparsity": 0.9, "param_filter": "2.*"},
        {"algorithm": "gmp", "sparsity": 0.5, "storage": "small", "param_filter": ["0.bias"]},
        7,
    ]
    done = plan(content, "models:mlp", "--json")
    found = lines_of(done)
    expected = [
        ("sparsity[0]", "has no option 'drop_fracton'; did you mean 'drop_fraction'?"),
        ("sparsity[0]", "0.weight of shape (20, 10)", "into 3 equal groups; use 2 or 5"),
        ("sparsity[1]", "has no option 'seeed'; did you mean 'seed'?"),
        ("sparsity[1]", "sparsity must be between 0 and 1; got 1.9."),
        ("sparsity[1]", "update has no option 'frq'; did you mean 'freq'?"),
        ("sparsity[1]", "drop_fraction must be between 0 and 1; got -1.0."),
        ("sparsity[1]", "unknown init_method 'topq'; did you mean 'topk'?"),
        ("sparsity[1]", "'2.weigth'", "Similar names: 2.weight, "),
        ("sparsity[2]", "unknown algorithm 'rigel'; did you mean 'rigl'?"),
        ("sparsity[3]", "sparsity of GMP must be", "For a constant level, use Static."),
        ("sparsity[3]", "unknown storage 'small'", "masked, compressed"),
        ("sparsity[4]", "an entry of sparsity must be a dict; got 7 (int)."),
    ]
    for place, *parts in expected:
        assert [
            line
            for line in found
            if line.startswith(f"error: {place}: ") and all(part in line for part in parts)
        ], (place, parts, found)
    assert len(found) == len(expected)
    problems = json.loads(done.out)["problems"]
    assert [f"error: {p['place']}: {p['message']}" for p in problems] == found


def test_all_problems_of_a_train_config(command: Command) -> None:
    path = command.config(
        optimizer={"name": "adamx"},
        loop={"stpes": 3, "clip": -1},
        model={"heads": 5},
        lop={},
        data={"text": "nothere.txt"},
        sparsity=[ENTRY, {**ENTRY, "param_filter": "*atention*"}],
    )
    found = lines_of(command("plan", path))
    for part in (
        "error: lop: ",
        "error: optimizer.name: ",
        "error: loop.stpes: ",
        "error: loop.clip: ",
        "error: model: model.heads must be a divisor of model.width = 16; got 5.",
        "nothere.txt: cannot be read",
    ):
        assert [line for line in found if part in line], (part, found)
    assert len(found) == 6


def test_a_filter_that_an_earlier_entry_leaves_nothing(plan) -> None:
    (line,) = lines_of(plan([ENTRY, {**ENTRY, "param_filter": "2.weight"}]))
    assert line.startswith(
        "error: sparsity[1]: param_filter must be a filter that matches a parameter "
        "which no earlier entry matches; got '2.weight'."
    )


def test_nested_places(plan) -> None:
    wrong = {"param_filter": {"0.weight": {"drop_fracton": 1}, "2.weight": {}}}
    (line,) = lines_of(plan({"groups": [{**ENTRY, **wrong}]}))
    assert line.startswith("error: sparsity.groups[0].param_filter['0.weight']: ")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("models:broken", "the factory failed: RuntimeError: no such weights"),
        ("models:no_module", "must return a module or (module, inputs), but returned type int"),
        ("models:number", "expected a function that returns a module, got type int"),
        ("models:mlpp", "did you mean 'mlp'?"),
        ("nothere:mlp", "No module named 'nothere'"),
        ("models", "expected module:factory, such as my_models:small_gpt"),
    ],
)
def test_wrong_models_are_one_line_beside_the_others(plan, model: str, says: str) -> None:
    found = lines_of(plan({**ENTRY, "sparsty": 1}, model))
    assert len(found) == 2
    assert "did you mean 'sparsity'?" in found[0] + found[1]
    assert says in found[0] + found[1]


@pytest.mark.parametrize("content", ["sparsity: null", "[]", "sparsity: {groups: []}"])
def test_no_sparsity_is_a_mistake(plan, content: str) -> None:
    (line,) = lines_of(plan(content))
    assert line.startswith("error: sparsity: ")


def test_files_that_are_none(command: Command) -> None:
    assert "nothere.yaml: cannot be read" in lines_of(command("plan", "nothere.yaml"))[0]
    (command.folder / "bad.yaml").write_text("a: [")
    assert "line 1" in lines_of(command("plan", "bad.yaml"))[0]
