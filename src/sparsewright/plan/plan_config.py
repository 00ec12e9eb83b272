"""Plan a configuration file, and collect all mistakes in it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from sparsewright.base import SparsityAlgorithm
from sparsewright.configure import ENTRY_KEYS, read_routes
from sparsewright.core.filters import ParamFilter
from sparsewright.errors import (
    MissingOptionError,
    OptionError,
    Report,
    SparsewrightError,
    SparsityWarning,
)
from sparsewright.plan.contents import Plan
from sparsewright.plan.forecast import Forecast, forecast, guess_steps
from sparsewright.plan.make_plan import make_plan
from sparsewright.plan.outline import (
    Factory,
    Outline,
    build,
    count_flops,
    load_factory,
    run,
)
from sparsewright.plan.pitfalls import find_notes
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings, read_section
from sparsewright.runs.config import RECIPES, RunConfig, lift_trainer
from sparsewright.runs.user_objects import one_line
from sparsewright.runs.yaml_file import read_any_yaml
from sparsewright.session.walk import named_weights

Routes = list[tuple[str, ParamFilter | None, SparsityAlgorithm | None]]

_STATES = {"adamw": 2, "adam": 2}


@dataclass
class _Request:
    """The input of a plan.

    Attributes:
        sparsity: the value for `configure`.
        where: source of the model, for error messages.
        factory: builds the model.
        steps: length of the run; None if the file does not set it.
        optimizer: the section `optimizer`.
        per: the input that FLOPs are counted for, if the factory returns inputs.
        storage: storage of all sparse weights; overrides the entries.
    """

    sparsity: Any
    where: str
    factory: Factory | None
    steps: int | None
    optimizer: OptimizerSettings
    per: str
    storage: str | None = None


@dataclass(frozen=True)
class Problem:
    """One mistake and its place."""

    place: str
    message: str


def plan_file(
    path: Path, model: str | None = None, steps: int | None = None
) -> tuple[Plan | None, list[Problem]]:
    """Plan a configuration file.

    Args:
        path: a `sparsewright train` configuration. With `model`, it can be any YAML file in which
            the section `sparsity`, or else the whole file, is valid input for `configure`.
        model: `module:factory`; default: the model of the file's recipe.
        steps: length of the run; default: the length in the file, or else the shortest run that
            completes all schedules.

    Returns:
        The plan and all mistakes; the plan is None if there are mistakes.

    Raises:
        ConfigError: the file cannot be read.
    """
    problems: list[Problem] = []

    def report(place: str, error: Exception) -> None:
        known = isinstance(error, SparsewrightError)
        message = " ".join(str(error).split()) if known else one_line(error)
        problems.append(Problem(place, message))

    request = _of_recipe(path, report) if model is None else _of_factory(path, model, report)
    with _notes_instead():
        routes = _routes(request, report)
    outline = _build(request, report)
    if outline is None:
        return None, problems
    notes: list[str] = []
    _fill_lazy(outline, notes)
    length = steps or request.steps
    algorithms = [algorithm for *_, algorithm in routes if algorithm is not None]
    if length is None:
        length = guess_steps(algorithms)
        notes.append(f"{path} sets no number of steps; assuming {length} (change with --steps N)")
    plan = make_plan(outline.model, routes, _forecasts(routes, length, report), report)
    if not plan.sparse and not problems:
        names = [weight.name for weight in plan.weights if len(weight.shape) > 1]
        allowed = f"a section whose param_filter matches at least one of {', '.join(names)}"
        if any(algorithm.skips_misfits for algorithm in algorithms):
            allowed += " and whose structure fits it"
        report("sparsity", OptionError("sparsity", request.sparsity, allowed))
    momentum = 1 if request.optimizer.momentum else 0
    plan.states = _STATES.get(request.optimizer.name, momentum)
    plan.notes = notes + plan.notes + find_notes(plan)
    _count(plan, outline, request.per)
    return (None if problems else plan), problems


@contextlib.contextmanager
def _notes_instead() -> Iterator[None]:
    """Mute the warnings that algorithms log about their schedules: the plan's notes cover them."""

    def is_info(record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING

    logger = logging.getLogger("sparsewright")
    logger.addFilter(is_info)
    try:
        yield
    finally:
        logger.removeFilter(is_info)


def _of_recipe(path: Path, report: Report) -> _Request:
    """Read a `sparsewright train` configuration."""
    config = RunConfig.from_file(path, report=report)
    recipe, loop = RECIPES[config.recipe], config.loop

    def factory() -> tuple[nn.Module, Any]:
        return recipe.outline(config.data, config.model, loop)

    per = f"batch of {loop.batch_size}"
    where = config.recipe
    return _Request(
        config.sparsity, where, factory, loop.steps, config.optimizer, per, loop.storage
    )


def _of_factory(path: Path, model: str, report: Report) -> _Request:
    """Read any YAML file, for a model from a user's factory."""
    content = read_any_yaml(path)
    factory = None
    try:
        factory = load_factory(model)
    except SparsewrightError as error:
        report("--model", error)
    loop, optimizer = LoopSettings(), OptimizerSettings()
    asked = None
    if isinstance(content, Mapping) and not ENTRY_KEYS & set(content):
        sections = dict(content)
        if "trainer" in sections:
            try:
                lift_trainer(sections, str(path))
            except SparsewrightError as error:
                report("trainer", error)
        if isinstance(sections.get("loop"), Mapping) and "steps" in sections["loop"]:
            given = {"steps": sections["loop"]["steps"]}
            asked = read_section(loop, given, "loop", str(path), report).steps
        if "recipe" in sections and "optimizer" in sections:
            optimizer = read_section(
                optimizer, sections["optimizer"], "optimizer", str(path), report
            )
        content = sections.get("sparsity")
    return _Request(content, model, factory, asked, optimizer, "inputs of the factory")


def _routes(request: _Request, report: Report) -> Routes:
    """Read the entries of a section, and repeat each warning about the section only once."""
    section = request.sparsity
    if section is None or section == {"sparsity": None}:
        allowed = "a number, a dict or a list of dicts"
        report("sparsity", MissingOptionError("section 'sparsity'", allowed=allowed))
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        routes: Routes = list(read_routes(section, report))
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        warnings.warn(text, SparsityWarning, stacklevel=2)
    if request.storage is not None:
        for place, _, algorithm in routes:
            if algorithm is not None:
                try:
                    algorithm.storage = request.storage
                except SparsewrightError as error:
                    report(place, error)
    return routes


def _build(request: _Request, report: Report) -> Outline | None:
    if request.factory is None:
        return None
    try:
        return build(request.factory, request.where)
    except SparsewrightError as error:
        report("model", error)
        return None


def _forecasts(routes: Routes, steps: int, report: Report) -> dict[int, Forecast]:
    """Return forecasts by the algorithm's id, and report schedules that fail."""
    found = {}
    for place, _, algorithm in routes:
        if algorithm is not None:
            try:
                found[id(algorithm)] = forecast(algorithm, steps)
            except Exception as error:  # runs a user's schedule; the plan lists its error
                report(place, error)
    return found


def _fill_lazy(outline: Outline, notes: list[str]) -> None:
    """Materialize lazy parameters by a forward pass, if there are inputs."""
    if outline.inputs is not None and any(is_lazy(p) for p in outline.model.parameters()):
        try:
            run(outline)
        except Exception as error:  # runs the user's forward(); the plan notes its error
            notes.append(f"the shapes of lazy parameters are unknown: {one_line(error)}")


def _count(plan: Plan, outline: Outline, per: str) -> None:
    """Set the plan's FLOPs from a forward pass, or estimate them for one row of activations."""
    # Names as in the plan: without the prefixes that torch.compile and other wrappers add.
    weights = {name: param for name, _, _, param, _ in named_weights(outline.model)}
    if outline.inputs is not None:
        try:
            names = [weight.name for weight in plan.weights if not weight.tied_to]
            counted = {name: weights[name] for name in names if weights[name].ndim > 1}
            plan.flops, plan.per = count_flops(outline, counted), per
            return
        except Exception as error:  # runs the user's forward(); the plan notes its error
            plan.notes.append(f"FLOPs cannot be counted: the forward pass raised {one_line(error)}")
    else:
        text = "FLOPs cannot be counted without inputs; return (model, inputs) from the factory"
        plan.notes.append(text)
    plan.flops = {weight.name: 2 * weight.total for weight in plan.sparse}
    plan.per = "one row, sparse weights only"
