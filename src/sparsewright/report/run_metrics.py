"""Read a run's metrics.jsonl and versions.json, and check every line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from sparsewright.errors import CheckpointError
from sparsewright.formats.read_file import MOST_TEXT, check_regular, read_regular

Line = dict[str, Any]
_LARGEST = 1e300  # a sum of smaller numbers is finite for any realistic count


@dataclass
class Metrics:
    """The lines of metrics.jsonl by event, oldest first, with None for numbers that are not finite.

    Attributes:
        steps: lines of the event `step`.
        validation: lines of the event `validation`.
        updates: layer -> lines of its event `mask_update`, with added `churn` and `overlap`.
    """

    steps: list[Line] = field(default_factory=list)
    validation: list[Line] = field(default_factory=list)
    updates: dict[str, list[Line]] = field(default_factory=dict)


def read_metrics(path: Path, totals: Mapping[str, int]) -> Metrics:
    """Read the metrics of a run, which may still be training.

    Args:
        path: metrics.jsonl; an incomplete last line is ignored.
        totals: layer -> number of elements.

    Raises:
        CheckpointError: a line is not in a run's format.
    """
    metrics = Metrics()
    for number, line in _lines(path):
        event, step = line.get("event"), line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            problem = f"line {number}: step must be an integer >= 0; got {step!r}"
            raise CheckpointError(path, problem)
        if event == "mask_update":
            name = line.get("name")
            if not isinstance(name, str) or name not in totals:
                problem = f"line {number}: the run has no layer {name!r} with a mask"
                raise CheckpointError(path, problem)
            _complete(line, totals[name], f"line {number}", path)
            metrics.updates.setdefault(name, []).append(line)
        elif event == "step":
            metrics.steps.append(line)
        elif event == "validation":
            metrics.validation.append(line)
    return metrics


def _complete(line: Line, total: int, where: str, path: Path) -> None:
    """Check the counts of an update, and add `churn` and `overlap` to its line.

    `churn` is (dropped + grown) / kept. `overlap` is the Jaccard index of the masks before and
    after the update: (before - dropped) / (before + grown), where before = kept + dropped - grown.
    """
    counts = [line.get(key) for key in ("kept", "dropped", "grown")]
    if not all(isinstance(n, int) and 0 <= n <= total for n in counts):
        problem = f"{where}: kept, dropped and grown must be integers between 0 and {total}"
        raise CheckpointError(path, f"{problem}; got {counts}")
    kept, dropped, grown = (int(n) for n in counts if n is not None)
    before = kept + dropped - grown
    if before < dropped or before > total or kept < grown:
        problem = f"{where}: kept, dropped and grown = {counts} contradict each other"
        raise CheckpointError(path, problem)
    line["churn"] = (dropped + grown) / max(1, kept)
    line["overlap"] = (before - dropped) / (before + grown) if before + grown else 1.0


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    try:
        check_regular(path)
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MOST_TEXT), b""), 1):
                if len(raw) == MOST_TEXT:
                    problem = f"line {number} is longer than any line of a run's metrics"
                    raise CheckpointError(path, problem)
                if raw.endswith(b"\n"):
                    yield number, _line(raw, f"line {number}", path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def _line(raw: bytes, where: str, path: Path) -> Line:
    try:
        line = _loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"{where} is not JSON") from error
    if not isinstance(line, dict):
        raise CheckpointError(path, f"{where} is not a JSON object")
    return line


def _loads(raw: bytes) -> Any:
    """Parse JSON, with None for numbers that cannot be summed or drawn."""
    return json.loads(
        raw.decode(), parse_int=_int, parse_float=_float, parse_constant=lambda name: None
    )


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) < 17 else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) <= _LARGEST else None


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float; a bool is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_level(value: object) -> TypeGuard[float]:
    """Return whether a value is a sparsity level, a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def number_keys(lines: list[Line]) -> list[str]:
    """Return the keys, except `step`, that hold numbers, in order of first appearance."""
    found: dict[str, None] = {}
    for line in lines:
        found |= {k: None for k, v in line.items() if k != "step" and is_number(v)}
    return list(found)


def read_versions(path: Path) -> list[dict[str, Any]]:
    """Read the entries of versions.json; the list is empty if the run has no such file.

    Raises:
        CheckpointError: the file cannot be read, or is not in a run's format.
    """
    if not path.exists():
        return []
    try:
        entries = _loads(read_regular(path, MOST_TEXT))
        return [
            {
                "from_step": int(entry["from_step"]),
                "versions": {str(k): str(v) for k, v in entry["versions"].items()},
            }
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(path, "not a list of versions") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
