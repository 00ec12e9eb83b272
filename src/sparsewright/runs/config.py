"""Read a run's configuration from the defaults, a file and command-line options."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from sparsewright.configure import ENTRY_KEYS
from sparsewright.errors import (
    ConfigError,
    IncompatibleOptionError,
    OptionError,
    OptionTypeError,
    Report,
    SparsewrightError,
    SparsityWarning,
    stop,
)
from sparsewright.recipes import charlm, fashion
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings, read_section
from sparsewright.recipes.task import Recipe, Task
from sparsewright.runs.yaml_file import read_yaml

RECIPES: dict[str, Recipe] = {"charlm": charlm.RECIPE, "fashion": fashion.RECIPE}
_DEFAULT_RECIPE = "charlm"
_SECTIONS = ("data", "model", "optimizer", "loop")


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run; `from_file` reads back what `to_yaml` writes.

    Attributes:
        recipe: name in `RECIPES`.
        data: the recipe's section `data`.
        model: the recipe's section `model`.
        optimizer: section `optimizer`.
        loop: section `loop`.
        sparsity: the value for `sparsewright.configure`.
    """

    recipe: str
    data: Any
    model: Any
    optimizer: OptimizerSettings
    loop: LoopSettings
    sparsity: Any

    @classmethod
    def from_file(
        cls,
        path: Path | None,
        recipe: str | None = None,
        options: dict[str, dict[str, Any]] | None = None,
        report: Report = stop,
    ) -> RunConfig:
        """Read a configuration: options override the file, and the file overrides the defaults.

        Args:
            path: a YAML file; None for the defaults only.
            recipe: recipe from the command line; None for the file's recipe, or else charlm.
            options: section -> key -> value, from the command line.
            report: called for each mistake in the content; an invalid value keeps its default.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or contradicts itself.
            OptionError: a recipe, section or key is unknown, or a value is out of range.
            OptionTypeError: a value has the wrong type.
        """
        raw = {} if path is None else read_yaml(path)
        where = "the defaults" if path is None else str(path)
        try:
            lift_trainer(raw, where)
        except ConfigError as error:
            report("trainer", error)
        allowed = ["recipe", "sparsity", *_SECTIONS]
        lost = [key for key in raw if key in ENTRY_KEYS]
        if lost:
            keys = f"{', '.join(lost)} {'belongs' if len(lost) == 1 else 'belong'}"
            problem = f"{keys} in the section 'sparsity', not at the top level"
            report("sparsity", ConfigError(where, problem))
        for section in raw:
            if section not in allowed and section not in lost:
                report(str(section), OptionError("section", section, allowed, where))
        try:
            name = _recipe_name(raw.get("recipe"), recipe, where)
        except SparsewrightError as error:
            report("recipe", error)
            name = _DEFAULT_RECIPE
        found = RECIPES[name]
        sections = {}
        for section in _SECTIONS:
            value = getattr(found, section)
            value = read_section(value, raw.get(section), section, where, report)
            given = (options or {}).get(section)
            sections[section] = read_section(
                value, given, section, "the command-line options", report
            )
        sections["loop"] = _with_threads(sections["loop"])
        sparsity = raw["sparsity"] if "sparsity" in raw else found.sparsity(sections["loop"])
        return cls(recipe=name, sparsity=sparsity, **sections)

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `from_file` reads back to an equal object."""
        header = "# Resolved configuration. `sparsewright train` accepts this file unchanged.\n"
        return header + yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)

    def make_task(self) -> Task:
        """Make the recipe's task from these sections; this reads the data."""
        return RECIPES[self.recipe].make_task(self.data, self.model, self.loop)


def _with_threads(loop: LoopSettings) -> LoopSettings:
    """Fix the number of threads, because a resumed run must round its sums the same way.

    The default is at most four threads, because the recipes' networks gain little from more.
    """
    return loop if loop.threads else replace(loop, threads=min(4, torch.get_num_threads()))


def _recipe_name(in_file: object, asked: str | None, where: str) -> str:
    if in_file is None:
        return asked or _DEFAULT_RECIPE
    if not isinstance(in_file, str):
        raise OptionTypeError(f"recipe in {where}", in_file, "a name")
    if in_file not in RECIPES:
        raise OptionError("recipe", in_file, list(RECIPES), where)
    if asked is not None and asked != in_file:
        raise IncompatibleOptionError("--recipe", asked, where, f"names the recipe {in_file!r}")
    return in_file


def lift_trainer(raw: dict[str, Any], where: str) -> None:
    """Move `trainer: init: sparsity:` of a Model-Zoo-style file to the top level, in place.

    Only this part of `trainer` is used; a warning lists the ignored keys.

    Raises:
        ConfigError: `trainer` has no `init: sparsity:`, or the file has a top-level `sparsity` too.
    """
    if "trainer" not in raw:
        return
    trainer = raw.pop("trainer")
    init = trainer.get("init") if isinstance(trainer, dict) else None
    if not isinstance(init, dict) or "sparsity" not in init:
        raise ConfigError(
            where, "the section 'trainer' needs 'init: sparsity:', the only part that is used"
        )
    if "sparsity" in raw:
        raise ConfigError(where, "give 'sparsity' or 'trainer: init: sparsity', not both")
    raw["sparsity"] = init["sparsity"]
    unused = [f"trainer.init.{key}" for key in init if key != "sparsity"]
    unused += [f"trainer.{key}" for key in trainer if key != "init"]
    if unused:
        text = f"{where}: only trainer.init.sparsity of 'trainer' is used; ignored: "
        warnings.warn(text + ", ".join(unused), SparsityWarning, stacklevel=2)
