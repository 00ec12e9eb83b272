"""Algorithms as text that reads back, and as tables for notebooks."""

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
"""Options of all algorithms, whatever the constructor of a user's class takes."""


def constructor_options(cls: type) -> dict[str, Any]:
    """Option -> default of a constructor, through `**kwargs` to its base.

    The default of an option that must be given is `inspect.Parameter.empty`.
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
        if "Choices" in str(rest.annotation):  # those alone are passed on
            return options | {k: v for k, v in _CHOICES.items() if k not in options}
    return options


def describe(algorithm: Any) -> str:
    """The call that makes an equal algorithm: its class, and the options that are not default.

    An option of a user's class is read from the attribute of its name. Functions and levels by
    parameter are shown, but do not read back.
    """
    name = type(algorithm).__name__
    if not algorithm.is_single:
        pairs = (f"({show_filter(f)}, {own!r})" for f, own in algorithm._routes)
        return f"{name}([{', '.join(pairs)}])"
    options = options_of(algorithm)
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in options.items())})"


def options_of(algorithm: Any) -> dict[str, Any]:
    """The constructor's options that are not at their defaults, by name."""
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
    """What an option is now, in the form in which it is best read."""
    schedules = dict(algorithm.schedules.items())
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
    """Levels that were given by parameter, of which there is no text to read back."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f"<by parameter, {self.count} different>"


def describe_html(algorithm: Any) -> str:
    """Tables for notebooks: the options, or a Group's pairs, and the sparse parameters."""
    parameters = _parameters(algorithm.sparse_params.values())
    if not algorithm.is_single:
        routes = [(show_filter(f), repr(own)) for f, own in algorithm._routes]
        return table(type(algorithm).__name__, ("filter", "algorithm"), routes) + parameters
    options = {**options_of(algorithm), "storage": algorithm.storage, "step": algorithm.step}
    name = type(algorithm).__name__
    rows = [(option, repr(value)) for option, value in options.items()]
    return table(name, ("option", "value"), rows) + parameters


def describe_parameter(parameter: Any) -> str:
    """What a sparse parameter is; it does not read back, for it belongs to a model."""
    name, shape, kept, total, level, storage = _facts(parameter)
    return f"<SparseParameter {name!r} {shape}, kept {kept} of {total} (level {level}), {storage}>"


def parameter_html(parameter: Any) -> str:
    """A table for notebooks."""
    return _parameters([parameter])


def _parameters(parameters: Iterable[Any]) -> str:
    headings = ("parameter", "shape", "kept", "total", "level", "storage")
    rows = [_facts(parameter) for parameter in parameters]
    return table("sparse parameters", headings, rows) if rows else ""


def _facts(parameter: Any) -> tuple[str, ...]:
    """Name, shape, kept, total, level, storage; "?" for what a mask not made yet would tell."""
    kept = level = "?"
    if parameter.is_initialized:
        kept, level = f"{parameter.kept:,}", f"{parameter.computed_sparsity:.4f}"
    shape, total = "x".join(map(str, parameter.shape)), f"{parameter.shape.numel():,}"
    return parameter.name, shape, kept, total, level, parameter.storage.name
