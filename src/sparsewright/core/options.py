"""Construction of objects from config entries such as `{"type": name, ...}`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar

from sparsewright.errors import MissingOptionError, OptionError, UnknownOptionError


class Named(Protocol):
    """Class that a config refers to by name."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


def make_of_type(
    what: str,
    options: Mapping[str, object],
    members: Sequence[type[T]],
    aliases: Mapping[str, str] | None = None,
) -> T:
    """Return an instance of the class that `type` names, built from the other keys.

    Args:
        what: name of the option in error messages.
        options: `type`, in upper or lower case, and the constructor arguments.
        members: classes to choose from, by their `name`.
        aliases: additional names, `{alias: name}`.

    Raises:
        OptionError: the type or a key is unknown, or a key is missing.
    """
    names = {member.name: member for member in members}
    known = names | {alias: names[name] for alias, name in (aliases or {}).items()}
    arguments = dict(options)
    if "type" not in arguments:
        raise MissingOptionError("type", what, list(names), options)
    kind = arguments.pop("type")
    member = known.get(kind.lower()) if isinstance(kind, str) else None
    if member is None:
        raise OptionError(f"{what} type", kind, list(names))
    parameters = inspect.signature(member).parameters
    check_known(f"{what} {kind!r}", arguments, parameters)
    check_complete(what, options, parameters)
    return member(**arguments)


def check_known(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownOptionError if an option is not one of the known names."""
    names = list(known)
    for key in options:
        if key not in names:
            raise UnknownOptionError(what, key, names)


def check_complete(
    what: str, options: Mapping[str, object], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Raise MissingOptionError if an argument without a default is missing."""
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise MissingOptionError(name, what, value=options)
