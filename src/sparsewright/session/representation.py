"""The repr of algorithms and sparse parameters, and their HTML tables for notebooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from sparsewright.core.filters import show_filter
from sparsewright.core.html import table
from sparsewright.init import name_of_init_method
from sparsewright.schedules.parse import make_update_schedule
from sparsewright.schedules.schedule import constant_value

_FIRST = ("sparsity", "update")
_CHOICES = {"seed": 0, "storage": None, "distribution": None, "structure": None}
"""Options of every algorithm, in addition to those in a constructor's signature."""


def constructor_options(cls: type) -> dict[str, Any]:
    """Return the options of a constructor and their defaults, including options in `**kwargs`.

    A required option has the default `inspect.Parameter.empty`.
    """
    options: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                options.setdefault(p.name, p.default)
        rest = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return options
        if "Choices" in str(rest.annotation):  # `**kwargs` accepts only these options
            return options | {k: v for k, v in _CHOICES.items() if k not in options}
    return options


def describe(algorithm: Any) -> str:
    """Return the constructor call of an equal algorithm, without options that have their default.

    The value of an option of a user's class is the attribute of that name. Functions and levels
    per parameter are shown as text that Python cannot evaluate.
    """
    name = type(algorithm).__name__
    if not algorithm.is_single:
        pairs = (f"({show_filter(f)}, {own!r})" for f, own in algorithm._routes)
        return f"{name}([{', '.join(pairs)}])"
    options = options_of(algorithm)
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in options.items())})"


def options_of(algorithm: Any) -> dict[str, Any]:
    """Return the constructor's options whose values differ from their defaults, by name."""
    own = constructor_options(type(algorithm))
    defaults = {**own, **{name: v for name, v in _CHOICES.items() if name not in own}}
    names = sorted(defaults, key=lambda name: name not in _FIRST)
    values = {name: _value(algorithm, name, defaults[name]) for name in names}
    empty = inspect.Parameter.empty
    return {
        name: value
        for name, value in values.items()
        if value is not empty and repr(value) != repr(defaults[name])
    }


def _value(algorithm: Any, name: str, default: Any) -> Any:
    """Return the current value of an option in its most readable form."""
    schedules = dict(algorithm.schedules.items())
    if name == "sparsity" and not algorithm._is_level_given:
        return default
    if name in schedules:
        level = constant_value(schedules[name])
        return schedules[name] if level is None else level
    if name == "sparsity" and schedules:
        return _ByParameter(sum(level.startswith("sparsity.") for level in schedules))
    if name == "update" and hasattr(algorithm, "update_schedule"):
        schedule = algorithm.update_schedule
        return None if repr(schedule) == repr(make_update_schedule(None)) else schedule
    if name == "distribution" and algorithm.distribution.is_uniform:
        return default
    if name == "structure" and not algorithm._is_structure_given:
        return default
    if name == "storage" and algorithm.storage == algorithm.storages[0]:
        return default
    if name == "init_method":
        return name_of_init_method(algorithm.init_method)
    return getattr(algorithm, name, default)


class _ByParameter:
    """Placeholder in a repr for levels that were given per parameter."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f"<by parameter, {self.count} different>"


def describe_html(algorithm: Any) -> str:
    """Return HTML tables of the options (or a Group's filters) and the sparse parameters."""
    parameters = _parameters(algorithm.sparse_params.values())
    if not algorithm.is_single:
        routes = [(show_filter(f), repr(own)) for f, own in algorithm._routes]
        return table(type(algorithm).__name__, ("filter", "algorithm"), routes) + parameters
    options = {**options_of(algorithm), "storage": algorithm.storage, "step": algorithm.step}
    name = type(algorithm).__name__
    rows = [(option, repr(value)) for option, value in options.items()]
    return table(name, ("option", "value"), rows) + parameters


def describe_parameter(parameter: Any) -> str:
    """Return the repr of a sparse parameter."""
    name, shape, kept, total, level, storage = _facts(parameter)
    return f"<SparseParameter {name!r} {shape}, kept {kept} of {total} (level {level}), {storage}>"


def parameter_html(parameter: Any) -> str:
    """Return an HTML table with one sparse parameter."""
    return _parameters([parameter])


def _parameters(parameters: Iterable[Any]) -> str:
    headings = ("parameter", "shape", "kept", "total", "level", "storage")
    rows = [_facts(parameter) for parameter in parameters]
    return table("sparse parameters", headings, rows) if rows else ""


def _facts(parameter: Any) -> tuple[str, ...]:
    """Return name, shape, kept, total, level and storage; "?" for facts of a missing mask."""
    kept = level = "?"
    if parameter.is_initialized:
        kept, level = f"{parameter.kept:,}", f"{parameter.computed_sparsity:.4f}"
    shape, total = "x".join(map(str, parameter.shape)), f"{parameter.shape.numel():,}"
    return parameter.name, shape, kept, total, level, parameter.storage.name
