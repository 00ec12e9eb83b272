"""Entries of a config section: nested dicts and lists as one dict per filter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from sparsewright.core.dialect import convert_old_dialect, is_old_dialect
from sparsewright.core.filters import default_sparse_param_filter
from sparsewright.errors import ExclusiveOptionsError, OptionError, OptionTypeError, Report

NESTING = ("groups", "params")
"""Keys of an entry that hold a list of nested entries."""

_DEEPEST = 16  # a config that contains itself is endless
_ALIASES = (("type", "algorithm"), ("schedule", "sparsity"))


def present_dialect(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the current keys; warn if it uses deprecated ones."""
    if is_old_dialect(entry):
        warnings.warn(
            "the keys param_name_patterns and sparsity_schedule are deprecated; "
            "use param_filter (globs) and sparsity",
            DeprecationWarning,
            stacklevel=4,
        )
        return convert_old_dialect(entry)
    if "type" in entry:
        warnings.warn(
            "the key 'type' is deprecated; use 'algorithm'", DeprecationWarning, stacklevel=4
        )
    return entry


def flat_entries(
    config: Any, place: str, defaults: Mapping[str, Any], report: Report, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Flatten a config into one dict per entry, each with its place.

    Args:
        config: a number, a dict or a list of dicts.
        place: where the config is, such as `sparsity[0]`; its first word names it in messages.
        defaults: options of the entries around it.
        report: called for each mistake.
        depth: number of entries around it.
    """
    what = place.partition("[")[0].partition(".")[0]
    if depth > _DEEPEST:
        deepest = f"at most {_DEEPEST} levels of {' or '.join(NESTING)} deep"
        report(place, OptionError(what, config, deepest))
        return
    if isinstance(config, Mapping):
        for key in config:
            if not isinstance(key, str):
                report(place, OptionTypeError(f"a key of {what}", key, "a string"))
        config = {key: value for key, value in config.items() if isinstance(key, str)}
        merged = {**_without_overridden(defaults, config), **config}
        nested = [key for key in NESTING if key in merged]
        if not nested:
            yield place, merged
            return
        if len(nested) > 1:
            report(place, ExclusiveOptionsError(nested))
        inner = next(merged.pop(key) for key in nested)
        if not isinstance(inner, list | tuple | Mapping):
            report(place, OptionTypeError(nested[0], inner, "a list of dicts"))
            return
        yield from flat_entries(inner, f"{place}.{nested[0]}", merged, report, depth + 1)
    elif isinstance(config, list | tuple):
        for index, entry in enumerate(config):
            where = f"{place}[{index}]"
            if isinstance(entry, Mapping):
                yield from flat_entries(entry, where, defaults, report, depth + 1)
            else:
                report(where, OptionTypeError(f"an entry of {what}", entry, "a dict"))
    elif isinstance(config, Real) and not isinstance(config, bool):
        yield place, {"algorithm": "static", "sparsity": config}
    else:
        report(place, OptionTypeError(what, config, "a number, a dict or a list of dicts"))


def _without_overridden(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults without those that `config` overrides under an alias."""
    aliases = () if is_old_dialect({**defaults, **config}) else _ALIASES
    hidden = {old for old, new in aliases if new in config}
    hidden |= {new for old, new in aliases if old in config}
    return {key: value for key, value in defaults.items() if key not in hidden}


def split_filters(
    place: str, entry: Mapping[str, Any]
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield an entry's filter and options, once for each glob that has its own options."""
    options = dict(entry)
    param_filter = options.pop("param_filter", None)
    if not isinstance(param_filter, Mapping):
        filled = default_sparse_param_filter if param_filter is None else param_filter
        yield place, filled, options
        return
    if not param_filter:
        raise OptionError("param_filter", param_filter, "a dict with at least one glob")
    for glob, own in param_filter.items():
        if not isinstance(glob, str):
            raise OptionTypeError("a key of param_filter", glob, "a glob")
        if own is not None and not isinstance(own, Mapping):
            raise OptionTypeError(f"param_filter[{glob!r}]", own, "a dict of options")
        where = f"{place}.param_filter[{glob!r}]"
        yield where, glob, {**rename(options), **rename(own or {})}


def rename(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under their current names: `type` is `algorithm`, `schedule` is `sparsity`."""
    renamed = dict(options)
    for old, new in _ALIASES:
        if old in renamed:
            if new in renamed:
                raise ExclusiveOptionsError([new, old])
            renamed[new] = renamed.pop(old)
    return renamed
