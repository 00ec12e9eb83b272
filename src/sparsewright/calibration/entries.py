"""The config of a one-shot call: methods, filters and static sparsity."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparsewright.calibration.method import Method
from sparsewright.calibration.methods import ALL
from sparsewright.core.config_entries import flat_entries, split_filters
from sparsewright.core.counts import as_decimal
from sparsewright.core.filters import ParamFilter, make_param_filter
from sparsewright.core.options import check_known
from sparsewright.errors import (
    IncompatibleOptionError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
    stop,
)
from sparsewright.init import from_zeros
from sparsewright.static import Static

_OPTIONS = ("sparsity", "structure", "distribution", "reconstruct", "param_filter")
_OWL = {"m": 5, "spread": 0.08}
_METHODS = {method.name: method for method in ALL}


@dataclass(frozen=True)
class Entry:
    """One entry of the config.

    Attributes:
        param_filter: picks the weights.
        method: prunes them.
        algorithm: keeps the masks; has the level, the structure and the distribution.
        has_own_structure: whether the method divides weights itself, as SparseGPT does.
        reconstruct: whether to correct the weights that the method keeps.
        owl: options of the OWL distribution, or None.
    """

    param_filter: ParamFilter
    method: Method
    algorithm: Static
    has_own_structure: bool
    reconstruct: bool
    owl: Mapping[str, float] | None

    @property
    def needs_data(self) -> bool:
        """Return whether the entry needs calibration data."""
        return self.method.needs_inputs or self.reconstruct or self.owl is not None

    @property
    def needs_products(self) -> bool:
        """Return whether the statistics must have products of features."""
        return self.method.needs_products or self.reconstruct


def read_entries(config: Any) -> list[Entry]:
    """Return the entries of a config, in order.

    Args:
        config: a dict or a list of dicts, with nested entries as for `configure`.

    Raises:
        OptionError: a key, method or value is unknown, an option is missing, or options do not
            work together.
        OptionTypeError: a value has the wrong type.
    """
    if not isinstance(config, Mapping | list | tuple) or not config:
        raise OptionTypeError("config", config, "a dict with 'method', or a list of such dicts")
    return [
        _make_entry(make_param_filter(raw_filter), options)
        for place, entry in flat_entries(config, "config", {}, stop)
        for _, raw_filter, options in split_filters(place, entry)
    ]


def _make_entry(param_filter: ParamFilter, options: Mapping[str, Any]) -> Entry:
    """Return an entry from its filter and its other options."""
    if "method" not in options:
        raise MissingOptionError("method", "config", list(_METHODS), options)
    given = options["method"]
    make = _METHODS.get(given.lower()) if isinstance(given, str) else None
    if make is None:
        raise OptionError("method", given, list(_METHODS))
    parameters = inspect.signature(make).parameters
    check_known(f"method {make.name!r}", options, ["method", *_OPTIONS, *parameters])
    method = make(**{key: options[key] for key in parameters if key in options})
    reconstruct = options.get("reconstruct", False)
    if not isinstance(reconstruct, bool):
        raise OptionTypeError("reconstruct", reconstruct, "True or False")
    structure = options.get("structure")
    owl = _owl_options(options.get("distribution"))
    algorithm = Static(
        options.get("sparsity"),
        "topk",
        structure=make.structure if structure is None else structure,
        distribution=None if owl is not None else options.get("distribution"),
    )
    if owl is not None and algorithm.structure.has_one_level:
        other = f"structure={algorithm.structure!r}"
        reason = "has only one level"
        raise IncompatibleOptionError("distribution", "owl", other, reason, ["uniform"])
    algorithm.init_method = from_zeros  # masks are found later, and start without pruning
    own = structure is None and make.structure is None
    return Entry(param_filter, method, algorithm, own, reconstruct, owl)


def _owl_options(distribution: object) -> Mapping[str, float] | None:
    """Return the options of OWL if it is the distribution, else None."""
    options = {"type": distribution} if isinstance(distribution, str) else distribution
    if not isinstance(options, Mapping):
        return None
    kind = options.get("type")
    if not isinstance(kind, str) or kind.lower() != "owl":
        return None
    given = {key: value for key, value in options.items() if key != "type"}
    check_known("distribution 'owl'", given, _OWL)
    chosen = {**_OWL, **given}
    as_decimal(chosen["spread"], "spread")
    m = chosen["m"]
    if isinstance(m, bool) or not isinstance(m, int | float):
        raise OptionTypeError("m", m, "a number > 0")
    if not 0 < m < math.inf:
        raise OptionError("m", m, "a number > 0")
    return chosen


def filters(entries: list[Entry]) -> Iterator[tuple[ParamFilter, Static]]:
    """Yield the filter and the algorithm of each entry."""
    for entry in entries:
        yield entry.param_filter, entry.algorithm
