"""Text for values and names in messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence

_LONG = 160
# Depth and width are limited because a wrong value may also be endless.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, _LONG, _LONG, _LONG
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _REPR.maxfrozenset = 12


def close_names(name: object, allowed: Iterable[str], most: int = 1) -> list[str]:
    """Return up to `most` entries of `allowed` with a spelling similar to `name`, nearest first.

    >>> close_names("drop_fracton", ["drop_fraction", "sparsity"])
    ['drop_fraction']
    >>> close_names("xyz", ["drop_fraction"])
    []
    """
    options = list(allowed)
    lowered = {option.lower(): option for option in reversed(options)}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=most, cutoff=0.6)
    return [lowered[key] for key in found]


def listed(allowed: Sequence[str] | str) -> str:
    """Return names as text, separated by commas; return a text unchanged."""
    return allowed if isinstance(allowed, str) else ", ".join(allowed) or "nothing"


def hint(name: object, allowed: Sequence[str] | str) -> str:
    """Return `; did you mean ...?` with the most similar allowed name, or "" without one."""
    is_name = isinstance(name, str) and len(name) < _LONG and not isinstance(allowed, str)
    nearest = close_names(name, allowed) if is_name else []
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def article(name: str) -> str:
    """Return "a" or "an", as a reader would say it before a name.

    >>> article("type"), article("algorithm"), article("n"), article("m")
    ('a', 'an', 'an', 'an')
    """
    return "an" if name[0] in "aeio" or name in tuple("fhlmnrsx") else "a"


def show(value: object) -> str:
    """Return a value as one line of text: the shape of a tensor, or a shortened representation.

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
