"""Build a Group from a config section, such as a section of a YAML file."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, overload

from sparsewright.algorithms import ALL
from sparsewright.base import SparsityAlgorithm
from sparsewright.core.dialect import convert_old_dialect, is_old_dialect
from sparsewright.core.filters import (
    ParamFilter,
    default_sparse_param_filter,
    make_param_filter,
)
from sparsewright.errors import (
    ExclusiveOptionsError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
    Report,
    SparsewrightError,
    UnknownOptionError,
    stop,
)
from sparsewright.group import Group
from sparsewright.session.representation import constructor_options
from sparsewright.wording import close_names

__all__ = ["configure", "default_sparse_param_filter"]

_NESTING = ("groups", "params")
_DEEPEST = 16  # a config that contains itself is endless
_ALIASES = (("type", "algorithm"), ("schedule", "sparsity"))
_ALGORITHMS: dict[str, type[SparsityAlgorithm]] = {cls.name: cls for cls in ALL}
# Other names of the methods, for which the most similar spelling would mislead.
_SYNONYMS = {
    **dict.fromkeys(("magnitude", "magnitude_pruning", "gradual", "gradual_magnitude"), "gmp"),
    **dict.fromkeys(("prune", "pruning", "agp", "zhu_gupta", "polynomial"), "gmp"),
    **dict.fromkeys(("fixed", "constant", "random", "lottery", "lottery_ticket"), "static"),
    **dict.fromkeys(("snip", "oneshot", "one_shot", "topk", "n_m"), "static"),
    **dict.fromkeys(("evolutionary", "random_growth", "mask_set"), "set"),
    **dict.fromkeys(("dynamic", "dst", "rigging", "rigged_lottery", "gradient_growth"), "rigl"),
    **dict.fromkeys(("straight_through", "srste", "sr_ste"), "ste"),
}
_CHOICES = ("storage", "distribution", "structure")  # options that every algorithm accepts


ENTRY_KEYS = {
    *("algorithm", "type", "param_filter", "param_name_patterns", "sparsity_schedule", *_NESTING),
    *(key for make in ALL for key in constructor_options(make) if key != "sparsity"),
}
"""Keys that an entry of a section `sparsity` may have, but a file of sections may not."""

ConfigLike = float | Mapping[str, object] | Sequence[Mapping[str, object]]
"""A config section: a number, a dict (one entry) or a list of dicts."""


@overload
def configure(config: None) -> None: ...
@overload
def configure(config: ConfigLike) -> Group: ...
def configure(config: ConfigLike | None) -> Group | None:
    """Build a Group from a config section.

    Args:
        config: a number (static sparsity at that level), a dict (one entry), or a list of dicts.
            A dict has these keys:

            - `algorithm`: a name in any case, the name of a subclass of `SparsityAlgorithm` that
              has been defined, or the class.
            - `param_filter`: a glob, a list of globs, a function `(name, param) -> bool`, or a
              dict `{glob: options}` whose options override those of the entry. By default
              `default_sparse_param_filter`, together with the roles of weights in the model; see
              "Sparsify my model" in the documentation.
            - the options of the algorithm: `sparsity` (or `schedule`), `update`, `init_method`,
              `drop_fraction`, `balance_in_groups`, `balance_out_groups`, `seed`, `storage`,
              `distribution`, `structure`.
            - `groups` or `params`: a list of nested entries, which are flattened. The outer keys
              are their defaults.

    Returns:
        A Group whose entries are in the order of the config. None if the config is None
        (`sparsity: null` in YAML) or `{"sparsity": None}`.

    Raises:
        OptionError: a key, algorithm or value is unknown (the message suggests a similar one), an
            option is missing, or options do not work together.
        OptionTypeError: a value has the wrong type.

    >>> configure({"algorithm": "set", "sparsity": 0.9, "update": {"steps": [100, 200]}})
    Group([(default_sparse_param_filter, SET(sparsity=0.9, update=ListSchedule([100, 200])))])
    """
    if config is None or _is_null(config):
        return None
    group = Group()
    for _, param_filter, algorithm in read_routes(config, stop):
        assert param_filter is not None  # the first mistake is raised
        assert algorithm is not None
        group.add(param_filter, algorithm)
    return group


def _is_null(config: Any) -> bool:
    """Return whether a config is `{"sparsity": None}`."""
    return (
        isinstance(config, Mapping) and list(config) == ["sparsity"] and config["sparsity"] is None
    )


def read_routes(
    config: Any, report: Report
) -> Iterator[tuple[str, ParamFilter | None, SparsityAlgorithm | None]]:
    """Yield the pairs of a config's Group in order, each with its place in the config.

    Each mistake is reported and the wrong option is ignored. A filter or an algorithm that cannot
    be built at all is None.

    Args:
        config: as for `configure`, but not None.
        report: called for each mistake.
    """
    for place, entry in _entries(config, "sparsity", {}, report):
        try:
            pairs = list(_split_filters(place, _present_dialect(entry)))
        except SparsewrightError as error:
            report(place, error)
            continue
        for where, raw_filter, options in pairs:
            param_filter = None
            try:
                param_filter = make_param_filter(raw_filter)
            except SparsewrightError as error:
                report(where, error)
            yield where, param_filter, _make_algorithm(where, options, report)


def _present_dialect(entry: dict[str, Any]) -> dict[str, Any]:
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


def _entries(
    config: Any, place: str, defaults: Mapping[str, Any], report: Report, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Flatten a config into one dict per entry, each with its place."""
    if depth > _DEEPEST:
        deepest = f"at most {_DEEPEST} levels of {' or '.join(_NESTING)} deep"
        report(place, OptionError("sparsity", config, deepest))
        return
    if isinstance(config, Mapping):
        for key in config:
            if not isinstance(key, str):
                report(place, OptionTypeError("a key of sparsity", key, "a string"))
        config = {key: value for key, value in config.items() if isinstance(key, str)}
        merged = {**_without_overridden(defaults, config), **config}
        nested = [key for key in _NESTING if key in merged]
        if not nested:
            yield place, merged
            return
        if len(nested) > 1:
            report(place, ExclusiveOptionsError(nested))
        inner = next(merged.pop(key) for key in nested)
        if not isinstance(inner, list | tuple | Mapping):
            report(place, OptionTypeError(nested[0], inner, "a list of dicts"))
            return
        yield from _entries(inner, f"{place}.{nested[0]}", merged, report, depth + 1)
    elif isinstance(config, list | tuple):
        for index, entry in enumerate(config):
            where = f"{place}[{index}]"
            if isinstance(entry, Mapping):
                yield from _entries(entry, where, defaults, report, depth + 1)
            else:
                report(where, OptionTypeError("an entry of sparsity", entry, "a dict"))
    elif isinstance(config, Real) and not isinstance(config, bool):
        yield place, {"algorithm": "static", "sparsity": config}
    else:
        report(place, OptionTypeError("sparsity", config, "a number, a dict or a list of dicts"))


def _without_overridden(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults without those that `config` overrides under an alias."""
    aliases = () if is_old_dialect({**defaults, **config}) else _ALIASES
    hidden = {old for old, new in aliases if new in config}
    hidden |= {new for old, new in aliases if old in config}
    return {key: value for key, value in defaults.items() if key not in hidden}


def _split_filters(
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
        yield where, glob, {**_rename(options), **_rename(own or {})}


def _rename(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under their current names: `type` is `algorithm`, `schedule` is `sparsity`."""
    renamed = dict(options)
    for old, new in _ALIASES:
        if old in renamed:
            if new in renamed:
                raise ExclusiveOptionsError([new, old])
            renamed[new] = renamed.pop(old)
    return renamed


def _make_algorithm(
    place: str, options: Mapping[str, Any], report: Report
) -> SparsityAlgorithm | None:
    """Build the algorithm of an entry; report wrong options and ignore them."""
    try:
        options = _rename(options)
    except SparsewrightError as error:
        report(place, error)
        return None
    try:
        if "algorithm" not in options:
            inner = options.get("sparsity")
            is_section = isinstance(inner, Mapping) and "algorithm" in inner
            near = close_names("algorithm", options)
            advice = f"Rename {near[0]!r} to 'algorithm'." if near else ""
            advice = "Pass only the content of its key 'sparsity'." if is_section else advice
            raise MissingOptionError("algorithm", "sparsity", list(_ALGORITHMS), options, advice)
        make = _find_algorithm(options.pop("algorithm"))
    except SparsewrightError as error:
        report(place, error)
        _check_the_rest(place, options, report)
        return None
    return _make(place, make, options, report)


def _check_the_rest(place: str, options: Mapping[str, Any], report: Report) -> None:
    """Report the other mistakes of an entry whose algorithm is unknown.

    These are the mistakes for the algorithm that accepts most of the options, with the fewest
    mistakes.
    """
    known = dict.fromkeys(key for make in ALL for key in constructor_options(make))
    for key in options:
        if key not in known:
            report(place, UnknownOptionError("sparsity", key, [*known, "param_filter"]))
    trials = [_try(place, make, options) for make in ALL]
    for mistake in min(trials, key=lambda trial: trial[:2])[2]:
        report(place, mistake)


def _try(
    place: str, make: type[SparsityAlgorithm], options: Mapping[str, Any]
) -> tuple[int, int, list[Exception]]:
    """Return the number of unsupported options, the number of other mistakes, and the mistakes."""
    taken = constructor_options(make)
    own = {key: value for key, value in options.items() if key in taken}
    mistakes: list[Exception] = []

    def collect(place: str, error: Exception) -> None:
        mistakes.append(error)

    _make(place, make, own, collect)
    return len(options) - len(own), len(mistakes), mistakes


def _make(
    place: str, make: type[SparsityAlgorithm], options: dict[str, Any], report: Report
) -> SparsityAlgorithm | None:
    """Build an algorithm of a class; report wrong options and ignore them."""
    taken = constructor_options(make)
    allowed = dict.fromkeys([*taken, *_CHOICES])
    for key in [key for key in options if key not in allowed]:
        known = [*allowed, "param_filter"]
        report(place, UnknownOptionError(make.__name__, key, known))
        del options[key]
    later = {key: options.pop(key) for key in _CHOICES if key in options and key not in taken}
    algorithm = _construct(place, make, options, report)
    if algorithm is not None:
        for key, value in later.items():
            try:
                setattr(algorithm, key, value)
            except SparsewrightError as error:
                report(place, error)
    return algorithm


def _construct(
    place: str, make: type[SparsityAlgorithm], options: dict[str, Any], report: Report
) -> SparsityAlgorithm | None:
    """Call the constructor; report each error and retry without the offending option."""
    for _ in range(len(options) + 2):
        made = _attempt(make, options)
        if isinstance(made, SparsityAlgorithm):
            return made
        report(place, made)
        rests = [_without(make, options, name) for name in [*options, "sparsity"]]
        fault = _fault(made)
        others = [r for r in rests if r is not None and _fault(_attempt(make, r)) != fault]
        if not others:
            break
        options = others[0]
    return None


def _fault(made: object) -> object:
    """Return a key that identifies a mistake: the missing option, or the whole message."""
    return made.what if isinstance(made, MissingOptionError) else str(made)


def _without(
    make: type[SparsityAlgorithm], options: dict[str, Any], name: str
) -> dict[str, Any] | None:
    """Return options without one of them; None if it is required.

    The option `sparsity` is replaced by a valid level instead.
    """
    defaults = constructor_options(make)
    rest = {key: value for key, value in options.items() if key != name}
    if name == "sparsity" and name in defaults:
        levels = (0.5, {"type": "linear", "init": 0.5, "slope": 0})
        every = [{**rest, name: level} for level in levels]
        works = (each for each in every if isinstance(_attempt(make, each), SparsityAlgorithm))
        return next(works, every[0])
    return None if defaults.get(name) is inspect.Parameter.empty else rest


def _attempt(
    make: type[SparsityAlgorithm], options: dict[str, Any]
) -> SparsityAlgorithm | Exception:
    """Return the algorithm that a constructor makes from options, or the error that it raises."""
    try:
        return make(**options)
    except Exception as error:  # runs a user's __init__; the caller reports the error
        return error


def _find_algorithm(algorithm: Any) -> type[SparsityAlgorithm]:
    """Return the class of an algorithm from its name, or the class itself.

    Raises:
        OptionError: the name is unknown, or the class is abstract.
        OptionTypeError: it is neither a name nor a subclass of SparsityAlgorithm.
    """
    if isinstance(algorithm, type) and issubclass(algorithm, SparsityAlgorithm):
        if inspect.isabstract(algorithm):
            missing = ", ".join(sorted(algorithm.__abstractmethods__))
            raise OptionError("algorithm", algorithm, f"a class that implements {missing}")
        return algorithm
    if not isinstance(algorithm, str):
        raise OptionTypeError("algorithm", algorithm, "a name or a subclass of SparsityAlgorithm")
    found = _ALGORITHMS.get(algorithm.lower())
    user_defined = dict(_user_defined(SparsityAlgorithm.__subclasses__()))
    found = found or user_defined.get(algorithm)
    if found is None:
        allowed = [*_ALGORITHMS, *user_defined]
        meant = _SYNONYMS.get(re.sub(r"[\W_]+", "_", algorithm.lower()), "")
        raise OptionError("algorithm", algorithm, allowed, meant=meant)
    return found


def _user_defined(
    classes: Iterable[type[SparsityAlgorithm]],
) -> Iterator[tuple[str, type[SparsityAlgorithm]]]:
    """Yield the name and class of each concrete subclass outside this package, newest last."""
    for each in classes:
        is_own = each.__module__.partition(".")[0] == "sparsewright"
        if not is_own and not inspect.isabstract(each):
            yield each.__name__, each
        yield from _user_defined(each.__subclasses__())
