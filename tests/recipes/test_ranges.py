"""Test that torch accepts every number that a section accepts, and that errors name the key."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.plan.plan_config import plan_file
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings, read_section
from sparsewright.runs.config import RECIPES, RunConfig
from sparsewright.runs.training import make_optimizer

NUMBERS = [-1, 0, 1, 2, 8, 0.0, 0.5, 1.0, 1 - 1e-12, 1e-320, 1e29, 1e300, 2**31, 2**40, 2**52]
NUMBERS += [2**53, 10**400, -math.inf, math.inf, math.nan, "x", True, [], {}, None]


def numeric_keys() -> list[tuple[str, str, str]]:
    """Return the recipe, section and key of every number in a configuration."""
    found = []
    for recipe, defaults in RECIPES.items():
        for section in ("data", "model", "optimizer", "loop"):
            kind = type(getattr(defaults, section))
            hints = typing.get_type_hints(kind)
            found += [
                (recipe, section, field.name)
                for field in dataclasses.fields(kind)
                if {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}
            ]
    return found


KEYS = numeric_keys()


def test_all_sections_have_numbers() -> None:
    assert len(KEYS) > 30
    assert {section for _, section, _ in KEYS} == {"data", "model", "optimizer", "loop"}


def why_refused(path: Path) -> str:
    try:
        RunConfig.from_file(path)
    except (OptionError, OptionTypeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("recipe", "section", "key"), KEYS)
def test_a_number_is_taken_or_its_key_is_named(
    tmp_path: Path, recipe: str, section: str, key: str
) -> None:
    path = tmp_path / "c.yaml"
    outcomes = []
    for number in NUMBERS:
        path.write_text(yaml.safe_dump({"recipe": recipe, section: {key: number}}))
        message = why_refused(path)
        outcomes.append(not message)
        assert not message or f"{section}.{key}" in message or "heads" in message
        if not message:
            value = getattr(getattr(RunConfig.from_file(path), section), key)
            assert value is None or math.isfinite(value) or key == "clip"
        if outcomes.count(outcomes[-1]) == 1:  # plan only the first of each outcome, to save time
            assert (plan_file(path)[1] == []) is outcomes[-1]
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("key", ["lr", "weight_decay", "momentum", "beta2"])
def test_torch_steps_with_what_is_taken(name: str, key: str) -> None:
    extremes = {"lr": 1e30, "weight_decay": 1e6, "momentum": 1.0, "beta2": math.nextafter(1.0, 0.0)}
    for given in ({key: 0.0}, {key: extremes[key]}, extremes):
        settings = read_section(OptimizerSettings(name=name), given, "optimizer", "here")
        model = nn.Linear(3, 2)
        optimizer = make_optimizer(model, settings)
        for _ in range(3):
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("beta2", 1.0, "a number >= 0.0 and < 1.0"),
        ("lr", math.inf, "a number from 0.0 to 1e+30"),
        ("weight_decay", 1e300, "a number from 0.0 to 1000000.0"),
        ("momentum", math.nan, "a number from 0.0 to 1.0"),
    ],
)
def test_what_torch_refuses_is_refused_before(key: str, value: float, allowed: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_section(OptimizerSettings(), {key: value}, "optimizer", "here")
    assert str(caught.value) == f"optimizer.{key} in here must be {allowed}; got {value!r}."


def test_the_most_threads() -> None:
    before = torch.get_num_threads()
    with pytest.raises(
        OptionError, match=r"^loop\.threads in here must be a number from 1 to 1024; got 1025"
    ):
        read_section(LoopSettings(), {"threads": 1025}, "loop", "here")
    torch.set_num_threads(read_section(LoopSettings(), {"threads": 1024}, "loop", "").threads or 1)
    torch.set_num_threads(before)


@pytest.mark.parametrize("text", ["a\0b", "/dev/zero", "/", "no.txt"])
def test_a_text_that_is_no_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"data": {"text": text}}))
    (problem,) = plan_file(path)[1]
    assert problem.place == "model"
    assert "cannot be read" in problem.message
