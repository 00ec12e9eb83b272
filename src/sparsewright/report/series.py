"""Downsample curves, by means or last values over intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from sparsewright.report.run_metrics import Line, is_number

Point = tuple[int, float]


def curve(lines: Sequence[Line], key: str, most: int) -> tuple[list[int], list[float | None], int]:
    """Return the curve of one key over the steps, with interval means if it has too many points.

    Args:
        lines: lines with `step`, in order.
        key: key of the values; lines without a number under this key are skipped.
        most: maximum number of points.

    Returns:
        The last step of each interval, the values, and the number of lines per interval.

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
    """Return steps for a common axis: all update steps, or the last steps of `most` groups."""
    steps = sorted({line["step"] for lines in updates for line in lines})
    width = max(1, -(-len(steps) // most))
    return [steps[min(i + width, len(steps)) - 1] for i in range(0, len(steps), width)]


def on_grid(
    lines: Sequence[Line], key: str, steps: Sequence[int], *, mean: bool
) -> list[float | None]:
    """Return one key of a layer's updates on a common axis.

    Args:
        lines: the layer's updates, in order.
        key: key of the values.
        steps: steps of the axis.
        mean: True for the mean over the updates since the previous point, or None if there are
            none; False for the last value so far, or None before the first update.

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
    """Round a float to five digits, which are enough to draw it."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
