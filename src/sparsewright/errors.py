"""The errors and warnings that sparsewright raises, as one tree.

::

    SparsewrightError
    ├── OptionError        (ValueError)   an option has an unknown name or an invalid value
    │   ├── MissingOptionError      (ValueError)   a required option is missing
    │   ├── UnknownOptionError      (TypeError)    an option does not exist
    │   ├── ExclusiveOptionsError   (ValueError)   several options exclude each other
    │   └── IncompatibleOptionError (ValueError)   a value does not work with another choice
    ├── OptionTypeError    (TypeError)    an option has the wrong type
    ├── LevelError         (ValueError)   a sparsity level is outside its range
    ├── ShapeError         (ValueError)   a tensor has the wrong shape (groups, masks)
    ├── ScoreError         (ValueError)   the scores to select from contain NaN
    ├── AlgorithmError     (TypeError)    an algorithm's class is incomplete or misbehaves
    ├── StateError         (ValueError)   a state dict belongs to a different object
    ├── AttachError        (RuntimeError) an object cannot be sparsified, or is not sparsified
    ├── CalibrationError   (ValueError)   scores or statistics cannot be computed from the data
    ├── ConfigError        (ValueError)   a configuration or data file cannot be used
    ├── CheckpointError    (ValueError)   a file is truncated, unknown or inconsistent
    ├── RunError           (OSError)      a run folder cannot be created, read or written
    ├── ReportError        (ValueError)   a report cannot be created
    ├── DivergenceError    (ArithmeticError) the loss of a run is no longer finite
    └── MissingPackageError (ImportError) an optional package is not installed

    SparsityWarning        (UserWarning)  a request had no effect

Each class accepts the facts and writes its own sentence. Catch the builtin class in parentheses,
or catch `SparsewrightError` for all of them.
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
    "CalibrationError",
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
"""A function `(place, error)`, called for each mistake in a config: it raises or collects it."""


def stop(place: str, error: Exception) -> None:
    """Raise the first mistake; this is the default `Report`."""
    raise error


class SparsewrightError(Exception):
    """Base class of every error that this library raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and the facts, so that errors cross process boundaries."""
        return _rebuild, (type(self), self.args, vars(self))


def _rebuild(
    cls: type[SparsewrightError], args: tuple[Any, ...], facts: dict[str, Any]
) -> SparsewrightError:
    """Return an error from its pickled message and facts."""
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(facts)
    return error


class SparsityWarning(UserWarning):
    """Issued when a request had no effect."""


# Show every warning, even if a notebook cell runs twice; the user's own filters come first.
warnings.filterwarnings("always", category=SparsityWarning, append=True)


def warn(message: str) -> None:
    """Warn that a request had no effect, and point at the user's line."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and _is_library(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SparsityWarning, stacklevel=level)


def _is_library(frame: FrameType) -> bool:
    """Return whether a frame runs code of this library or of torch."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("sparsewright", "torch")


class OptionError(SparsewrightError, ValueError):
    """Raised when an option has a value that is not allowed, or a name that does not exist.

    Args:
        what: the option, as the user would write it (`"freq"`), or a noun for a name
            (`"algorithm"`).
        value: the value that was given.
        allowed: the allowed names, of which a similar one is suggested; or a phrase that follows
            "must be".
        where: where the value was given, if that helps.
        meant: the name to suggest, if it is not the one with the most similar spelling.
        advice: a whole sentence that says what to do, if that helps.
    """

    def __init__(
        self,
        what: str,
        value: object,
        allowed: Sequence[str] | str,
        where: str = "",
        meant: str = "",
        advice: str = "",
    ) -> None:
        self.what, self.value, self.allowed = what, value, allowed
        place = f" in {where}" if where else ""
        if isinstance(allowed, str):
            text = f"{what}{place} must be {allowed}; got {show(value)}."
        elif isinstance(value, str):
            names = f"{'choose from' if len(allowed) > 1 else 'use'} {listed(allowed)}."
            text = f"unknown {what} {show(value)}{place}{_suggest(value, allowed, meant, names)}"
        else:
            text = f"{what}{place} must be one of {listed(allowed)}; got {show(value)}."
        super().__init__(_join(text, advice))


class MissingOptionError(OptionError):
    """Raised when a required option was not given.

    Args:
        what: the missing option, or a phrase for it that starts with "a", "an" or a quote.
        of: what needs the option, if that helps.
        allowed: the values to choose from: names, or a phrase; "" if it is obvious.
        value: the options that were given.
        advice: a whole sentence that says what to do, if that helps.
    """

    def __init__(
        self,
        what: str,
        of: str = "",
        allowed: Sequence[str] | str = "",
        value: object = None,
        advice: str = "",
    ) -> None:
        super().__init__(what, value, allowed)
        self.of = of
        thing = f"the option {what!r}" if what.isidentifier() else what
        text = f"{of} needs {thing}" if of else f"{what} is required"
        given = f"; got {show(value)}" if value is not None else ""
        if isinstance(allowed, str):
            text += (f": {allowed}" if allowed else "") + given
        else:
            text += f"{given}. Choose" if given else "; choose"
            text += f" from {listed(allowed)}"
        self.args = (_join(f"{text}.", advice),)


class UnknownOptionError(OptionError, TypeError):
    """Raised for an option that does not exist; a TypeError, as in any Python call.

    Args:
        what: what has no such option (`"RigL"`).
        value: the option that was given.
        allowed: the names of the options that exist; a similar one is suggested.
        where: where the option was given, if that helps.
    """

    def __init__(
        self, what: str, value: object, allowed: Sequence[str] = (), where: str = ""
    ) -> None:
        super().__init__(what, value, allowed)
        place = f" in {where}" if where else ""
        names = f"its options: {listed(allowed)}." if allowed else "it has no options."
        rest = _suggest(value, allowed, "", names)
        self.args = (f"{what}{place} has no option {show(value)}{rest}",)


class ExclusiveOptionsError(OptionError):
    """Raised when several options were given that exclude each other.

    Args:
        options: the options, two or more.
        where: what accepts only one of them, if that helps.
    """

    def __init__(self, options: Sequence[str], where: str = "") -> None:
        self.options = list(options)
        *others, last = self.options
        any_of = f"{', '.join(others)} or {last}"
        rest = "not both" if len(self.options) == 2 else "but only one of them"
        super().__init__(" and ".join(self.options), None, any_of)
        self.args = (f"{f'{where} accepts' if where else 'give'} {any_of}, {rest}.",)


class IncompatibleOptionError(OptionError):
    """Raised when an option's value is valid, but does not work with another choice.

    Args:
        what: the option.
        value: its value.
        other: the choice that it does not work with.
        reason: why, as a clause that follows "which".
        allowed: the values that work, or a phrase that follows "use"; "" if the reason says it.
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
        values = allowed if isinstance(allowed, str) else " or ".join(map(repr, allowed))
        advice = f"Use {values}." if values else ""
        text = f"{what}={show(value)} does not work with {other}, which {reason}."
        self.args = (_join(text, advice),)


class OptionTypeError(SparsewrightError, TypeError):
    """Raised when an option has the wrong type.

    Args:
        what: the option.
        value: the value that was given.
        allowed: a phrase that follows "must be" and lists the types that work.
        advice: a whole sentence that says what to do, if that helps.
    """

    def __init__(self, what: str, value: object, allowed: str, advice: str = "") -> None:
        self.what, self.value, self.allowed = what, value, allowed
        shown, kind = show(value), type(value).__name__
        has_kind = shown.startswith(f"<{kind}") or f" {kind} of shape" in shown
        if value is not None and not has_kind:
            shown += f" ({kind})"
        super().__init__(_join(f"{what} must be {allowed}; got {shown}.", advice))


class LevelError(SparsewrightError, ValueError):
    """Raised when a sparsity level (or drop fraction) is outside its range.

    Args:
        what: the option.
        value: the value that was given.
        allowed: a phrase that follows "must be".
    """

    def __init__(self, what: str, value: object, allowed: str = "between 0 and 1") -> None:
        self.what, self.value, self.allowed = what, value, allowed
        super().__init__(f"{what} must be {allowed}; got {show(value)}.")


def _suggest(value: object, allowed: Sequence[str], meant: str, names: str) -> str:
    """Return the end of a sentence about an unknown name: a suggestion, then all names."""
    suggestion = f"; did you mean {meant!r}?" if meant else hint(value, allowed)
    return f"{suggestion} {names[0].upper()}{names[1:]}" if suggestion else f"; {names}"


def _join(text: str, advice: str) -> str:
    """Return a sentence and the advice after it, if there is any."""
    return f"{text} {advice}" if advice else text


class ShapeError(SparsewrightError, ValueError):
    """Raised when a tensor's shape does not fit the operation."""

    def __init__(self, what: str, shape: Sequence[int], problem: str) -> None:
        self.what, self.shape, self.problem = what, tuple(shape), problem
        super().__init__(f"{what} of shape {tuple(shape)}: {problem}")


class ScoreError(SparsewrightError, ValueError):
    """Raised when scores contain NaN and therefore cannot be ranked."""

    def __init__(self, what: str = "score") -> None:
        self.what = what
        super().__init__(f"{what} contains NaN; its entries cannot be ranked")


class _Problem(SparsewrightError):
    """Base class of errors that name a thing and its problem.

    Args:
        what: the thing, such as a class or the full name of a weight.
        problem: what is wrong with it, and what to do.
    """

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what}: {problem}")


class AlgorithmError(_Problem, TypeError):
    """Raised when an algorithm's class does not do what the library or its own methods need."""


class StateError(SparsewrightError, ValueError):
    """Raised when a state dict does not belong to the object that loads it."""

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"cannot load the state of {what}: {problem}")


class AttachError(_Problem, RuntimeError):
    """Raised when an object cannot be sparsified, or is not sparsified."""


class CalibrationError(_Problem, ValueError):
    """Raised when scores or statistics of a model cannot be computed from the given data."""


class _FileProblem(SparsewrightError):
    """Base class of errors that name a file or folder and its problem."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class ConfigError(_FileProblem, ValueError):
    """Raised when a configuration or data file is missing, malformed or contradictory."""


class CheckpointError(_FileProblem, ValueError):
    """Raised when a file is truncated, has an unknown format, or is inconsistent."""


class RunError(_FileProblem, OSError):
    """Raised when a run folder cannot be created, read or written."""


class ReportError(SparsewrightError, ValueError):
    """Raised when a report cannot be created."""

    def __init__(self, runs: Sequence[str], problem: str) -> None:
        self.runs, self.problem = list(runs), problem
        super().__init__(f"cannot make a report of {', '.join(runs)}: {problem}")


class DivergenceError(SparsewrightError, ArithmeticError):
    """Raised when the loss of a run is no longer finite."""

    def __init__(self, what: str, value: float, step: int) -> None:
        self.what, self.value, self.step = what, value, step
        super().__init__(f"{what} is {value} at step {step}; try a smaller optimizer.lr")


class MissingPackageError(SparsewrightError, ImportError):
    """Raised when an optional package is not installed.

    Args:
        what: what needs the package.
        package: the package.
        extra: the extra of sparsewright that installs it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.what, self.package, self.extra = what, package, extra
        super().__init__(
            f"{what} needs the package {package!r}, which cannot be imported; "
            f"run pip install 'sparsewright[{extra}]'"
        )


@contextmanager
def needs(what: str, package: str, extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into a MissingPackageError with these facts."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(what, package, extra) from error
