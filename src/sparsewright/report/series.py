"""Curves with few enough points to draw and to store: means and last values over intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from sparsewright.report.run_metrics import Line, is_number

Point = tuple[int, float]


def curve(lines: Sequence[Line], key: str, most: int) -> tuple[list[int], list[float | None], int]:
    """One key of the lines over the steps, as means over intervals if there are too many.

    Args:
        lines: with `step`, in order.
        key: what to draw; lines without a number for it are left out.
        most: most points.

    Returns:
        Steps (the last of each interval), values, and how many lines a point stands for at most.

    >>> lines = [{"step": n, "loss": float(n)} for n in range(1, 5)]
    >>> curve(lines, "loss", 2)
    ([2, 4], [1.5, 3.5], 2)
    """
    points = [(line["step"], line[key]) for line in lines if is_number(line.get(key))]
    width = max(1, -(-len(points) // most))
    parts = [points[i : i + width] for i in range(0, len(points), width)]
    values = [rounded(statistics.fmean(value for _, value in part)) for part in parts]
    return [part[-1][0] for part in parts], values, width


def grid(updates: Sequence[Sequence[Line]], most: int) -> list[int]:
    """Steps for a common axis: all update steps, or the last of each of `most` equal groups."""
    steps = sorted({line["step"] for lines in updates for line in lines})
    width = max(1, -(-len(steps) // most))
    return [steps[min(i + width, len(steps)) - 1] for i in range(0, len(steps), width)]


def on_grid(
    lines: Sequence[Line], key: str, steps: Sequence[int], *, mean: bool
) -> list[float | None]:
    """One key of a layer's updates on a common axis.

    Args:
        lines: the updates of the layer, in order.
        key: what to draw.
        steps: the axis.
        mean: the mean over the updates since the point before (None: there were none); otherwise
            the last value so far (None: no update yet).

    >>> lines = [{"step": 1, "x": 1.0}, {"step": 2, "x": 2.0}, {"step": 5, "x": 4.0}]
    >>> on_grid(lines, "x", [2, 3, 6], mean=True), on_grid(lines, "x", [2, 3, 6], mean=False)
    ([1.5, None, 4.0], [2.0, 2.0, 4.0])
    """
    values: list[float | None] = []
    position, last = 0, None
    for step in steps:
        inside: list[Any] = []
        while position < len(lines) and lines[position]["step"] <= step:
            if is_number(lines[position].get(key)):
                inside.append(lines[position][key])
            position += 1
        last = inside[-1] if inside else last
        value = (statistics.fmean(inside) if inside else None) if mean else last
        values.append(rounded(value))
    return values


def rounded(value: Any) -> Any:
    """A number with five digits: enough to draw, short to store."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
