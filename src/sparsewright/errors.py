"""Every error and warning that sparsewright raises, as one tree.

::

    SparsewrightError
    ├── OptionError        (ValueError)   an option's name or value is not one that exists
    ├── OptionTypeError    (TypeError)    an option has the wrong type
    ├── LevelError         (ValueError)   a sparsity level outside its range
    ├── ShapeError         (ValueError)   a tensor's shape does not fit (groups, masks)
    ├── ScoreError         (ValueError)   NaN among the scores of a selection
    ├── StateError         (ValueError)   a state dict that is not this object's
    ├── AttachError        (RuntimeError) an object that cannot be sparsified, or is not
    ├── ConfigError        (ValueError)   a configuration or data file that cannot be used
    ├── CheckpointError    (ValueError)   a file that is truncated, foreign or inconsistent
    ├── RunError           (OSError)      a run folder that cannot be made, read or written
    ├── DivergenceError    (ArithmeticError) a run whose loss is no longer finite
    └── MissingPackageError (ImportError) an optional package that is not installed

    SparsityWarning        (UserWarning)  something the user asked for had no effect

Each class takes the facts and writes its own sentence. Catch the builtin on its right, or
`SparsewrightError` for all of them.
"""

from __future__ import annotations

import difflib
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LONG = 160
# Bounded in depth and width: a value that is wrong may also be endless.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, _LONG, _LONG, _LONG
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _REPR.maxfrozenset = 12

Report = Callable[[str, Exception], None]
"""Told of a mistake: where it is, and the error. It raises, or collects and lets go on."""


def stop(place: str, error: Exception) -> None:
    """The usual `Report`: the first mistake is raised."""
    raise error


class SparsewrightError(Exception):
    """Base of every error raised by this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles carry the message and the facts: errors cross process boundaries."""
        return _rebuild, (type(self), self.args, vars(self))


def _rebuild(
    cls: type[SparsewrightError], args: tuple[Any, ...], facts: dict[str, Any]
) -> SparsewrightError:
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(facts)
    return error


class SparsityWarning(UserWarning):
    """Something the user asked for had no effect."""


def warn(message: str) -> None:
    """Warn that something the user asked for had no effect, at the caller's caller's caller."""
    warnings.warn(message, SparsityWarning, stacklevel=4)


def close_names(name: object, allowed: Iterable[str], most: int = 1) -> list[str]:
    """Up to `most` entries of `allowed` that are spelt like `name`, nearest first.

    >>> close_names("drop_fracton", ["drop_fraction", "sparsity"])
    ['drop_fraction']
    >>> close_names("xyz", ["drop_fraction"])
    []
    """
    options = list(allowed)
    lowered = {option.lower(): option for option in reversed(options)}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=most, cutoff=0.6)
    return [lowered[key] for key in found]


def _hint(name: object, allowed: Iterable[str]) -> str:
    nearest = close_names(name, allowed) if isinstance(name, str) and len(name) < _LONG else []
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def show(value: object) -> str:
    """A value on one line: of a tensor its shape, of anything long or deep its beginning.

    >>> show("rigel"), show(list(range(1000)))
    ("'rigel'", '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]')
    """
    shape = getattr(value, "shape", None)
    if shape:
        return f"<{type(value).__name__} of shape {tuple(shape)}>"
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:  # an integer with more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


class OptionError(SparsewrightError, ValueError):
    """An option's name or value is not one that exists.

    Args:
        what: the option, as the user would write it (`"algorithm"`, `"key of gmp"`).
        value: what was given.
        allowed: what is allowed: names (a close one is suggested) or a sentence.
        where: where it was given, if that helps.
    """

    def __init__(
        self, what: str, value: object, allowed: Sequence[str] | str, where: str = ""
    ) -> None:
        self.what, self.value, self.allowed = what, value, allowed
        place = f" in {where}" if where else ""
        if isinstance(allowed, str):
            tail = f"allowed: {allowed}"
        else:
            tail = f"allowed: {', '.join(allowed) or 'nothing'}{_hint(value, allowed)}"
        super().__init__(f"{what} = {show(value)}{place} is not valid; {tail}")


class OptionTypeError(SparsewrightError, TypeError):
    """An option has the wrong type.

    Args:
        what: the option.
        value: what was given.
        allowed: a sentence that lists the types that work.
    """

    def __init__(self, what: str, value: object, allowed: str) -> None:
        self.what, self.value, self.allowed = what, value, allowed
        super().__init__(
            f"{what} = {show(value)} has type {type(value).__name__}; allowed: {allowed}"
        )


class LevelError(SparsewrightError, ValueError):
    """A sparsity level (or drop fraction) outside its range."""

    def __init__(self, what: str, value: object, allowed: str = "0 <= level <= 1") -> None:
        self.what, self.value, self.allowed = what, value, allowed
        super().__init__(f"{what} = {show(value)} is out of range; allowed: {allowed}")


class ShapeError(SparsewrightError, ValueError):
    """A tensor's shape does not fit what is asked of it."""

    def __init__(self, what: str, shape: Sequence[int], problem: str) -> None:
        self.what, self.shape, self.problem = what, tuple(shape), problem
        super().__init__(f"{what} of shape {tuple(shape)}: {problem}")


class ScoreError(SparsewrightError, ValueError):
    """NaN among the scores of a selection: there is no largest."""

    def __init__(self, what: str = "score") -> None:
        self.what = what
        super().__init__(
            f"{what} has NaN among the entries to choose from; a mask cannot be computed from it"
        )


class StateError(SparsewrightError, ValueError):
    """A state dict that does not belong to the object it is loaded into."""

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"cannot load the state of {what}: {problem}")


class AttachError(SparsewrightError, RuntimeError):
    """An object that cannot be sparsified, or that is not sparsified."""

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what}: {problem}")


class ConfigError(SparsewrightError, ValueError):
    """A configuration or data file that is missing, malformed or contradicts itself."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class CheckpointError(SparsewrightError, ValueError):
    """A file that is truncated, foreign, or does not agree with itself."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class RunError(SparsewrightError, OSError):
    """A run folder that cannot be made, read or written."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class DivergenceError(SparsewrightError, ArithmeticError):
    """A run whose loss is no longer finite."""

    def __init__(self, what: str, value: float, step: int) -> None:
        self.what, self.value, self.step = what, value, step
        super().__init__(f"{what} is {value} at step {step}; a smaller optimizer.lr may help")


class MissingPackageError(SparsewrightError, ImportError):
    """An optional package that is not installed.

    Args:
        what: what needs it.
        package: the package.
        extra: the extra of sparsewright that brings it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.what, self.package, self.extra = what, package, extra
        super().__init__(
            f"{what} needs the package {package!r}, which cannot be imported; "
            f"pip install 'sparsewright[{extra}]'"
        )


@contextmanager
def needs(what: str, package: str, extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into a MissingPackageError with these facts."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(what, package, extra) from error
