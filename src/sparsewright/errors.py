"""Every error and warning that sparsewright raises, as one tree.

::

    SparsewrightError
    ├── OptionError        (ValueError)   an option's name or value is not one that exists
    │   ├── MissingOptionError      (ValueError)   an option that must be given, and was not
    │   ├── UnknownOptionError      (TypeError)    a keyword that a constructor does not take
    │   ├── ExclusiveOptionsError   (ValueError)   options of which only one may be given
    │   └── IncompatibleOptionError (ValueError)   a value that does not work with another choice
    ├── OptionTypeError    (TypeError)    an option has the wrong type
    ├── LevelError         (ValueError)   a sparsity level outside its range
    ├── ShapeError         (ValueError)   a tensor's shape does not fit (groups, masks)
    ├── ScoreError         (ValueError)   NaN among the scores of a selection
    ├── AlgorithmError     (TypeError)    an algorithm's class does not do its part
    ├── StateError         (ValueError)   a state dict that is not this object's
    ├── AttachError        (RuntimeError) an object that cannot be sparsified, or is not
    ├── ConfigError        (ValueError)   a configuration or data file that cannot be used
    ├── CheckpointError    (ValueError)   a file that is truncated, foreign or inconsistent
    ├── RunError           (OSError)      a run folder that cannot be made, read or written
    ├── ReportError        (ValueError)   a report that cannot be made
    ├── DivergenceError    (ArithmeticError) a run whose loss is no longer finite
    └── MissingPackageError (ImportError) an optional package that is not installed

    SparsityWarning        (UserWarning)  something the user asked for had no effect

Each class takes the facts and writes its own sentence. Catch the builtin in parentheses, or
`SparsewrightError` for all of them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sparsewright.wording import hint, listed, show

__all__ = [
    "AlgorithmError",
    "AttachError",
    "CheckpointError",
    "ConfigError",
    "DivergenceError",
    "ExclusiveOptionsError",
    "IncompatibleOptionError",
    "LevelError",
    "MissingOptionError",
    "MissingPackageError",
    "OptionError",
    "OptionTypeError",
    "ReportError",
    "RunError",
    "ScoreError",
    "ShapeError",
    "SparsewrightError",
    "SparsityWarning",
    "StateError",
    "UnknownOptionError",
]

Report = Callable[[str, Exception], None]
"""`(place, error)`, called for each mistake in a config: raises the error, or collects it."""


def stop(place: str, error: Exception) -> None:
    """Raise the first mistake: the usual `Report`."""
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


# Each of them is shown, also when a notebook cell runs twice; filters of the user's come first.
warnings.filterwarnings("always", category=SparsityWarning, append=True)


def warn(message: str) -> None:
    """Warn that a request had no effect; the warning points at the user's line."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and _is_library(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SparsityWarning, stacklevel=level)


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("sparsewright", "torch")


class OptionError(SparsewrightError, ValueError):
    """An option's name or value is not one that exists.

    Args:
        what: the option, as the user would write it (`"algorithm"`, `"key of gmp"`).
        value: what was given.
        allowed: what is allowed: names (a close one is suggested) or a sentence.
        where: where it was given, if that helps.
        meant: the name to suggest, if it is not the one that is spelt alike.
    """

    def __init__(
        self,
        what: str,
        value: object,
        allowed: Sequence[str] | str,
        where: str = "",
        meant: str = "",
    ) -> None:
        self.what, self.value, self.allowed = what, value, allowed
        place = f" in {where}" if where else ""
        suggestion = f"; did you mean {meant!r}?" if meant else hint(value, allowed)
        tail = f"allowed: {listed(allowed)}{suggestion}"
        super().__init__(f"{what} = {show(value)}{place} is not valid; {tail}")


class MissingOptionError(OptionError):
    """An option must be given, and was not.

    Args:
        what: the option that is missing.
        of: what it is missing from, if that helps.
        allowed: what may be given for it: names or a sentence; "" if that goes without saying.
        value: the options that were given in its stead.
    """

    def __init__(
        self, what: str, of: str = "", allowed: Sequence[str] | str = "", value: object = None
    ) -> None:
        super().__init__(what, value, allowed)
        self.of = of
        place = f" from {of}" if of else ""
        given = f" = {show(value)}" if value is not None else ""
        tail = f"; allowed: {listed(allowed)}" if allowed else ""
        self.args = (f"{what} is missing{place}{given}{tail}",)


class UnknownOptionError(OptionError, TypeError):
    """A keyword that a constructor does not take; a TypeError, as in any call of Python's."""


class ExclusiveOptionsError(OptionError):
    """Several options were given, of which only one may be.

    Args:
        options: the options, two or more.
        where: where they were given, if that helps.
    """

    def __init__(self, options: Sequence[str], where: str = "") -> None:
        self.options = list(options)
        any_of = " or ".join(self.options)
        rest = "not both" if len(self.options) == 2 else "only one of them"
        super().__init__(" and ".join(self.options), None, any_of)
        self.args = (f"give {any_of}{f' in {where}' if where else ''}, {rest}",)


class IncompatibleOptionError(OptionError):
    """An option's value is valid, but does not work with another choice.

    Args:
        what: the option.
        value: its value.
        other: the choice that it does not work with.
        reason: why, as a clause that follows "which".
        allowed: the values that work; "" if the reason says it.
    """

    def __init__(
        self,
        what: str,
        value: object,
        other: str,
        reason: str,
        allowed: Sequence[str] | str = "",
    ) -> None:
        super().__init__(what, value, allowed)
        self.other, self.reason = other, reason
        tail = f"; allowed: {listed(allowed)}" if allowed else ""
        self.args = (f"{what} = {show(value)} does not work with {other}, which {reason}{tail}",)


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
        super().__init__(f"{what} contains NaN; entries cannot be ranked by it")


class AlgorithmError(SparsewrightError, TypeError):
    """An algorithm's class does not do what the library or its own methods need.

    Args:
        what: the class, or the method.
        problem: what to change in it.
    """

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what}: {problem}")


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


class ReportError(SparsewrightError, ValueError):
    """A report that cannot be made."""

    def __init__(self, runs: Sequence[str], problem: str) -> None:
        self.runs, self.problem = list(runs), problem
        super().__init__(f"cannot make a report of {', '.join(runs)}: {problem}")


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
