"""Griffe extension that shows doctests as code on the API pages, not as quotations (`>>>`)."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^(?=>>> ).+?(?=\n[ \t]*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Put a code fence around every doctest."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Add the fences to an object's docstring."""
        if obj.docstring:
            text = _DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = text
