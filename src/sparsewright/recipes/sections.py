"""Configuration sections as frozen dataclasses, with strict checks.

The fields of a dataclass are the section's keys. `read_section` checks their types and bounds, and
its errors name the key, the file and the allowed values.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sparsewright.errors import (
    OptionError,
    OptionTypeError,
    Report,
    SparsewrightError,
    UnknownOptionError,
    stop,
)
from sparsewright.storage import ALL as STORAGES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")


def option(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    among: tuple[str, ...] = (),
) -> Any:
    """Make a dataclass field with a default and a set of allowed values.

    Args:
        default: value if the key is missing.
        least: smallest allowed number, inclusive.
        most: largest allowed number, inclusive.
        below: exclusive upper bound, used instead of `most`.
        among: allowed strings.
    """
    bounds = {"least": least, "most": most, "below": below, "among": among}
    return dataclasses.field(default=default, metadata=bounds)


@dataclass(frozen=True)
class OptimizerSettings:
    """Section `optimizer`."""

    name: str = option("adamw", among=("adamw", "adam", "sgd"))
    # torch computes lr * weight_decay in float32, so the product of both limits must be finite.
    lr: float = option(5e-3, least=0.0, most=1e30)
    weight_decay: float = option(0.1, least=0.0, most=1e6)
    momentum: float = option(0.9, least=0.0, most=1.0)
    beta2: float = option(0.99, least=0.0, below=1.0)


@dataclass(frozen=True)
class LoopSettings:
    """Section `loop`; lengths are in optimizer steps."""

    steps: int = option(750, least=1)
    batch_size: int = option(16, least=1, most=2**20)
    seed: int = option(0, least=0, most=2**40)  # a million times this must be a valid torch seed
    warmup: int = option(50, least=0)
    final_lr: float = option(0.1, least=0.0, most=1.0)
    clip: float = option(1.0, least=0.0)
    evaluate_every: int = option(250, least=1)
    checkpoint_every: int = option(100, least=1)
    baseline: bool = option(True)
    threads: int | None = option(None, least=1, most=1024)
    storage: str | None = option(None, among=tuple(storage.name for storage in STORAGES))


def read_section(
    base: Section, raw: object, name: str, where: str, report: Report = stop
) -> Section:
    """Check the values of a section, and replace its defaults with them.

    Args:
        base: the section with its defaults.
        raw: the mapping in the file; None keeps all defaults.
        name: name of the section, for messages.
        where: name of the file, for messages.
        report: called for each mistake; an invalid value keeps its default.

    Raises:
        OptionTypeError: `raw` is not a mapping, or a value has the wrong type.
        OptionError: a key is unknown, or a value is out of range.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        allowed = "a mapping of keys to values"
        report(name, OptionTypeError(f"section {name!r} in {where}", raw, allowed))
        raw = {}
    fields = {field.name: field for field in dataclasses.fields(base)}
    hints = typing.get_type_hints(type(base))
    values = {}
    for key, value in raw.items():
        try:
            if key not in fields:
                raise UnknownOptionError(f"section {name!r}", key, list(fields), where)
            values[key] = _checked(value, hints[key], fields[key].metadata, f"{name}.{key}", where)
        except SparsewrightError as error:
            report(f"{name}.{key}", error)
    try:
        return dataclasses.replace(base, **values)
    except SparsewrightError as error:  # the values are valid, but not in combination
        report(name, error)
        return base


def _checked(value: Any, hint: Any, bounds: Mapping[str, Any], what: str, where: str) -> Any:
    """Check a value and convert it to its field's type; raise the errors of `read_section`."""
    allowed = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    if value is None and type(None) in allowed:
        return None
    if type(value) is int and abs(value) >= 2**53:
        raise OptionError(what, value, "a number below 2**53", where)
    if type(value) is int and float in allowed:
        value = float(value)
    if type(value) not in allowed:
        names = " or ".join(sorted("null" if t is type(None) else t.__name__ for t in allowed))
        raise OptionTypeError(f"{what} in {where}", value, f"of type {names}")
    if bounds["among"] and value not in bounds["among"]:
        raise OptionError(what, value, bounds["among"], where)
    least, most, below = bounds["least"], bounds["most"], bounds["below"]
    # Every comparison with NaN is false, so this form rejects NaN.
    is_inside = least is None or (least <= value and (most is None or value <= most))
    if not is_inside or not (below is None or value < below):
        inside = f"from {least} to {most}" if most is not None else f">= {least}"
        end = f" and < {below}" if below is not None else ""
        raise OptionError(what, value, f"a number {inside}{end}", where)
    return value
