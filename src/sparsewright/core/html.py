"""HTML tables for notebooks; the notebook's theme sets the colors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_MOST_ROWS = 20
_LEFT = ' style="text-align: left"'


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table with escaped text; a long table ends after 20 rows and a row count.

    >>> table("a < b", ["x"], [[1]])
    '<table><caption>a &lt; b</caption><tr><th style="text-align: left">x</th></tr>\
<tr><td style="text-align: left">1</td></tr></table>'
    """
    lines = [list(row) for row in rows]
    more = len(lines) - _MOST_ROWS
    shown = lines[:_MOST_ROWS] if more > 0 else lines
    parts = [f"<caption>{escape(caption)}</caption>", _row("th", headings)]
    parts += [_row("td", line) for line in shown]
    if more > 0:
        parts.append(_row("td", [f"and {more:,} more", *[""] * (len(headings) - 1)]))
    return f"<table>{''.join(parts)}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    inside = "".join(f"<{tag}{_LEFT}>{escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"
