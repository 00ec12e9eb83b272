"""From a config section (dict, list, number; what a YAML file holds) to a Group."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.dialect import convert_old_dialect, is_old_dialect
from sparsewright.core.errors import OptionError, OptionTypeError
from sparsewright.core.filters import default_sparse_param_filter
from sparsewright.gmp import GMP
from sparsewright.group import Group
from sparsewright.rigl import RigL
from sparsewright.runtime.describe import constructor_options
from sparsewright.set import SET
from sparsewright.static import Static

__all__ = ["configure", "default_sparse_param_filter"]

_STORAGES = ["masked", "compressed"]
_NESTING = ("groups", "params")
_ALIASES = (("type", "algorithm"), ("schedule", "sparsity"))
_ALGORITHMS: dict[str, type[SparsityAlgorithm]] = {
    "static": Static,
    "gmp": GMP,
    "set": SET,
    "rigl": RigL,
}


def configure(config: Any) -> Group:
    """Build a Group from a config section.

    Args:
        config: a number (static sparsity at that level), a dict (one entry), or a list of dicts.
            Keys of a dict: `algorithm` (a name in any case, the name of any subclass of
            `SparsityAlgorithm` that has been defined, or the class), `param_filter` (a glob, a
            list of globs, a function `(name, param) -> bool`; a dict `{glob: options}` lays each
            glob's options over the rest; missing: `default_sparse_param_filter`), and the options
            of the algorithm: `sparsity` (or `schedule`), `update`, `init_method`, `drop_fraction`,
            `balance_in_groups`, `balance_out_groups`, `seed`; and `storage`, `masked` or
            `compressed`. Entries nested under `groups` or `params` are flattened, the outer keys
            being their defaults.

    Returns:
        A Group whose entries are in the order of the config; None for what says that there is no
        sparsity: `sparsity: null` in YAML, which is None, or `{"sparsity": None}`.

    Raises:
        OptionError: an unknown key, algorithm or value; names it and the nearest valid one.
        OptionTypeError: a value of the wrong type.

    >>> configure({"algorithm": "set", "sparsity": 0.9, "update": {"steps": [100, 200]}})
    Group([(default_sparse_param_filter, SET(sparsity=0.9, update=ListSchedule([100, 200])))])
    """
    if config is None or config == {"sparsity": None}:
        # Typed for the callers that have a config; those that may not have one ask for None.
        return None  # type: ignore[return-value]
    group = Group()
    for entry in _entries(config):
        if is_old_dialect(entry):
            warnings.warn(
                "the keys param_name_patterns and sparsity_schedule are deprecated; "
                "use param_filter (globs) and sparsity",
                DeprecationWarning,
                stacklevel=2,
            )
            entry = convert_old_dialect(entry)
        elif "type" in entry:
            warnings.warn(
                "the key 'type' is deprecated; use 'algorithm'", DeprecationWarning, stacklevel=2
            )
        for param_filter, options in _split_filters(entry):
            group.add(param_filter, _make_algorithm(options))
    return group


def _entries(config: Any, defaults: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Flatten a config into dicts, one per entry."""
    defaults = defaults or {}
    if isinstance(config, Mapping):
        for key in config:
            if not isinstance(key, str):
                raise OptionTypeError("key of sparsity", key, "a string")
        merged = {**_without_overridden(defaults, config), **config}
        nested = [key for key in _NESTING if key in merged]
        if not nested:
            yield merged
            return
        if len(nested) > 1:
            raise OptionError("sparsity", nested, "either groups or params, not both")
        inner = merged.pop(nested[0])
        if not isinstance(inner, list | tuple | Mapping):
            raise OptionTypeError(nested[0], inner, "a list of dicts")
        yield from _entries(inner, merged)
    elif isinstance(config, list | tuple):
        for entry in config:
            if not isinstance(entry, Mapping):
                raise OptionTypeError("an entry of sparsity", entry, "a dict")
            yield from _entries(entry, defaults)
    elif isinstance(config, Real) and not isinstance(config, bool):
        yield {"algorithm": "static", "sparsity": config}
    else:
        raise OptionTypeError("sparsity", config, "a number, a dict, a list of dicts")


def _without_overridden(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, less those that `config` gives under their other name."""
    aliases = () if is_old_dialect({**defaults, **config}) else _ALIASES
    hidden = {old for old, new in aliases if new in config}
    hidden |= {new for old, new in aliases if old in config}
    return {key: value for key, value in defaults.items() if key not in hidden}


def _split_filters(entry: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The entry's filter and options, once per pattern if each has options of its own."""
    options = dict(entry)
    param_filter = options.pop("param_filter", None)
    if not isinstance(param_filter, Mapping):
        yield (default_sparse_param_filter if param_filter is None else param_filter), options
        return
    for glob, own in param_filter.items():
        if not isinstance(glob, str):
            raise OptionTypeError("a key of param_filter", glob, "a glob")
        if own is not None and not isinstance(own, Mapping):
            raise OptionTypeError(f"param_filter {glob!r}", own, "a dict of options")
        yield glob, {**_rename(options), **_rename(own or {})}


def _rename(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their present names: `type` is `algorithm`, `schedule` is `sparsity`."""
    renamed = dict(options)
    for old, new in _ALIASES:
        if old in renamed:
            if new in renamed:
                raise OptionError(old, renamed[old], f"{new} or {old}, not both")
            renamed[new] = renamed.pop(old)
    return renamed


def _make_algorithm(options: Mapping[str, Any]) -> SparsityAlgorithm:
    options = _rename(options)
    if "algorithm" not in options:
        raise OptionError("sparsity without 'algorithm'", options, f"{', '.join(_ALGORITHMS)}")
    make = _find_algorithm(options.pop("algorithm"))
    allowed = list(constructor_options(make))
    storage = options.pop("storage", "masked")
    if storage not in _STORAGES:
        raise OptionError("storage", storage, _STORAGES)
    for key in options:
        if key not in allowed:
            raise OptionError(f"key of {make.__name__}", key, [*allowed, "storage", "param_filter"])
    algorithm = make(**options)
    algorithm.storage = storage
    return algorithm


def _find_algorithm(algorithm: Any) -> type[SparsityAlgorithm]:
    if isinstance(algorithm, type) and issubclass(algorithm, SparsityAlgorithm):
        if inspect.isabstract(algorithm):
            raise OptionError("algorithm", algorithm, "a class that is not abstract")
        return algorithm
    if not isinstance(algorithm, str):
        raise OptionTypeError("algorithm", algorithm, "a name or a subclass of SparsityAlgorithm")
    found = _ALGORITHMS.get(algorithm.lower())
    user_defined = dict(_user_defined(SparsityAlgorithm))  # type: ignore[type-abstract]
    found = found or user_defined.get(algorithm)
    if found is None:
        raise OptionError("algorithm", algorithm, [*_ALGORITHMS, *user_defined])
    return found


def _user_defined(base: type[SparsityAlgorithm]) -> Iterator[tuple[str, type[SparsityAlgorithm]]]:
    """Class name and class of every usable subclass outside this package; the latest last."""
    for subclass in base.__subclasses__():
        if subclass.__module__.partition(".")[0] != "sparsewright" and not inspect.isabstract(
            subclass
        ):
            yield subclass.__name__, subclass
        yield from _user_defined(subclass)
