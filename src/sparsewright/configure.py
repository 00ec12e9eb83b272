"""Build a Group from a config section, such as a section of a YAML file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from sparsewright.algorithms import ALL
from sparsewright.base import SparsityAlgorithm
from sparsewright.core.config_entries import (
    NESTING,
    flat_entries,
    present_dialect,
    rename,
    split_filters,
)
from sparsewright.core.filters import (
    ParamFilter,
    default_sparse_param_filter,
    make_param_filter,
)
from sparsewright.errors import (
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
    *("algorithm", "type", "param_filter", "param_name_patterns", "sparsity_schedule", *NESTING),
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
    for place, entry in flat_entries(config, "sparsity", {}, report):
        try:
            pairs = list(split_filters(place, present_dialect(entry)))
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


def _make_algorithm(
    place: str, options: Mapping[str, Any], report: Report
) -> SparsityAlgorithm | None:
    """Build the algorithm of an entry; report wrong options and ignore them."""
    try:
        options = rename(options)
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
