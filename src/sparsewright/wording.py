"""Text for values and names in messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence

_LONG = 160


class _OneLine(reprlib.Repr):
    """Shorten representations, and show only the class of an object that has several lines."""

    def repr_instance(self, x: object, level: int) -> str:
        """Return the representation of an object that is not of a builtin type."""
        shown = super().repr_instance(x, level)
        return f"<{type(x).__name__}>" if "\n" in shown else shown


# Depth and width are limited because a wrong value may also be endless.
_REPR = _OneLine()
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


def first_of(names: Sequence[str], most: int = 8) -> str:
    """Return names separated by commas; if there are many, the first ones and the number of others.

    >>> first_of(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    rest = len(names) - most
    return f"{', '.join(names[:most])} and {rest} more" if rest > 0 else ", ".join(names)


def hint(name: object, allowed: Sequence[str] | str) -> str:
    """Return `; did you mean ...?` with the most similar allowed name, or "" without one."""
    is_name = isinstance(name, str) and len(name) < _LONG and not isinstance(allowed, str)
    nearest = close_names(name, allowed) if is_name else []
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def show(value: object) -> str:
    """Return a value as one line of text: the dtype and shape of a tensor, or a shortened `repr`.

    >>> show("rigel"), show(list(range(1000)))
    ("'rigel'", '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]')
    """
    shape = getattr(value, "shape", None)
    if shape:
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.").lstrip("<>|=")
        return f"<{f'{dtype} {type(value).__name__}'.strip()} of shape {tuple(shape)}>"
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:  # an integer with more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."
