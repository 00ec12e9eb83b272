"""Filters that pick parameters by their full names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor
from torch.nn.parameter import is_lazy

from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.wording import close_names

ParamFilter = Callable[[str, Tensor], bool]

FilterLike = str | Sequence[str] | ParamFilter
"""A glob, a list of globs, or a function `(name, param) -> bool`."""

DENSE_BY_DEFAULT = ("embedding", "norm", "lm_head", "pe_helper")


def default_sparse_param_filter(name: str, param: Tensor) -> bool:
    """Return whether a parameter is sparsified by default.

    A parameter with more than one dimension is sparsified, unless its lowercase full name
    contains `embedding`, `norm`, `lm_head` or `pe_helper`.

    Args:
        name: full name of the parameter.
        param: the parameter, any shape.
    """
    return not why_dense_by_default(name, param)


def why_dense_by_default(name: str, param: Tensor) -> str:
    """Return why `default_sparse_param_filter` leaves a parameter dense, or "" if it does not."""
    # The shape of a lazy parameter is unknown; attaching it raises an error later.
    if not is_lazy(param) and param.ndim <= 1:
        return "it has only one dimension" if param.ndim else "it has no dimensions"
    words = [word for word in DENSE_BY_DEFAULT if word in name.lower()]
    return f"its name contains {words[0]!r}" if words else ""


class GlobFilter:
    """Pick parameters by globs that match their entire full name.

    Args:
        patterns: case-sensitive globs (`*`, `?`, `[...]`); `*` also matches dots.

    >>> GlobFilter(["*.fc?.weight"])("decoder.fc1.weight", None)
    True
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = list(patterns)

    @property
    def is_literal(self) -> bool:
        """Return whether no glob contains a wildcard."""
        return not any(set("*?[") & set(pattern) for pattern in self.patterns)

    def __call__(self, name: str, param: Tensor | None) -> bool:
        """Return whether any glob matches `name`."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def __repr__(self) -> str:
        return repr(self.patterns[0] if len(self.patterns) == 1 else self.patterns)


def as_globs(what: str, globs: str | Sequence[str]) -> tuple[str, ...]:
    """Return the globs of an option that accepts one glob or several.

    Args:
        what: name of the option in error messages.
        globs: a glob, or a list of globs.

    Raises:
        OptionTypeError: `globs` has any other type.

    >>> as_globs("dense", "head.*"), as_globs("dense", [])
    (('head.*',), ())
    """
    found = [globs] if isinstance(globs, str) else globs
    if not isinstance(found, list | tuple) or not all(isinstance(glob, str) for glob in found):
        raise OptionTypeError(what, globs, "a glob or a list of globs")
    return tuple(found)


def matched(what: str, globs: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Return the first matching glob of each name that has one, as `{name: glob}`.

    Args:
        what: name of the option that has the globs, for error messages.
        globs: the globs in order of precedence.
        names: full names of the layers' weights.

    Raises:
        OptionError: a glob matches no name.
    """
    found: dict[str, str] = {}
    for glob in globs:
        picked = [name for name in names if GlobFilter([glob])(name, None)]
        if not picked:
            near = close_names(glob, names, 3)
            advice = f"Similar names: {', '.join(near)}." if near else ""
            raise OptionError(what, glob, "a glob that matches a sparse weight", advice=advice)
        found = dict.fromkeys(picked, glob) | found
    return found


class FirstMatch:
    """Find the first filter that picks a parameter.

    Filters without wildcards, such as one name per layer, are looked up in a dict, not called.

    Args:
        filters: filters in order of precedence.

    >>> FirstMatch([GlobFilter(["a.weight"]), GlobFilter(["*"])]).find("b.weight", None)
    1
    """

    def __init__(self, filters: Sequence[ParamFilter]) -> None:
        self._by_name: dict[str, int] = {}
        self._tried: list[tuple[int, ParamFilter]] = []
        for index, param_filter in enumerate(filters):
            if isinstance(param_filter, GlobFilter) and param_filter.is_literal:
                for name in param_filter.patterns:
                    self._by_name.setdefault(name, index)
            else:
                self._tried.append((index, param_filter))

    def find(self, name: str, param: Tensor) -> int | None:
        """Return the index of the first filter that picks a parameter, or None."""
        named = self._by_name.get(name)
        for index, param_filter in self._tried:
            if named is not None and named < index:
                break
            if param_filter(name, param):
                return index
        return named


def make_param_filter(param_filter: object, what: str = "param_filter") -> ParamFilter:
    """Build a filter from a glob, a list of globs, or a function `(name, param) -> bool`.

    Args:
        param_filter: the user's option.
        what: name of the option in error messages.

    Raises:
        OptionTypeError: `param_filter` has any other type.
    """
    if isinstance(param_filter, str):
        return GlobFilter([param_filter])
    if isinstance(param_filter, list | tuple) and param_filter:
        if all(isinstance(pattern, str) for pattern in param_filter):
            return GlobFilter(param_filter)
    elif callable(param_filter) and not isinstance(param_filter, type):
        return param_filter
    raise OptionTypeError(
        what, param_filter, "a glob, a list of globs or a function (name, param) -> bool"
    )


def show_filter(param_filter: ParamFilter) -> str:
    """Return the code for a filter; a user's function is shown by its `repr`.

    >>> show_filter(GlobFilter(["*.fc1.*"])), show_filter(default_sparse_param_filter)
    ("'*.fc1.*'", 'default_sparse_param_filter')
    """
    is_default = param_filter is default_sparse_param_filter
    return default_sparse_param_filter.__name__ if is_default else repr(param_filter)


def near_names(param_filter: ParamFilter, names: Sequence[str]) -> list[str]:
    """Return the names most similar to a filter's globs, closest first; [] for a function.

    >>> near_names(GlobFilter(["*atention*"]), ["attention", "mlp"])
    ['attention']
    """
    globs = param_filter.patterns if isinstance(param_filter, GlobFilter) else []
    return [near for glob in globs for near in close_names(glob, names, 3)]
