"""What a run logged: metrics.jsonl and versions.json, checked line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsewright.errors import CheckpointError
from sparsewright.formats.read_file import MOST_TEXT, check_regular, read_regular

Line = dict[str, Any]
_LARGEST = 1e300  # sums of any number of smaller ones are finite


@dataclass
class Metrics:
    """The lines of metrics.jsonl by event, oldest first; numbers that are not finite are None.

    Attributes:
        steps: lines `step`.
        validation: lines `validation`.
        updates: layer -> its lines `mask_update`, each with `churn` and `overlap` added.
    """

    steps: list[Line] = field(default_factory=list)
    validation: list[Line] = field(default_factory=list)
    updates: dict[str, list[Line]] = field(default_factory=dict)


def read_metrics(path: Path, totals: Mapping[str, int]) -> Metrics:
    """Read the metrics of a run, which may still be training.

    Args:
        path: metrics.jsonl; a last line without its end is being written, and left out.
        totals: layer -> entries.

    Raises:
        CheckpointError: a line is not what a run writes.
    """
    metrics = Metrics()
    for number, line in _lines(path):
        event, step = line.get("event"), line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise CheckpointError(path, f"line {number}: step = {step!r}; allowed: 0, 1, ...")
        if event == "mask_update":
            name = line.get("name")
            if not isinstance(name, str) or name not in totals:
                problem = f"line {number}: a mask_update of {name!r}, which has no mask"
                raise CheckpointError(path, problem)
            _complete(line, totals[name], f"line {number}", path)
            metrics.updates.setdefault(name, []).append(line)
        elif event == "step":
            metrics.steps.append(line)
        elif event == "validation":
            metrics.validation.append(line)
    return metrics


def _complete(line: Line, total: int, where: str, path: Path) -> None:
    """Check the counts of an update; add what follows from them.

    `churn` is (dropped + grown) / kept. `overlap` is the Jaccard index of the masks before and
    after: (before - dropped) / (before + grown), where before = kept + dropped - grown.
    """
    counts = [line.get(key) for key in ("kept", "dropped", "grown")]
    if not all(isinstance(n, int) and 0 <= n <= total for n in counts):
        problem = f"{where}: kept, dropped, grown = {counts}; allowed: 0 to {total}"
        raise CheckpointError(path, problem)
    kept, dropped, grown = (int(n) for n in counts if n is not None)
    before = kept + dropped - grown
    if before < dropped or before > total or kept < grown:
        raise CheckpointError(path, f"{where}: kept, dropped, grown = {counts} contradict")
    line["churn"] = (dropped + grown) / max(1, kept)
    line["overlap"] = (before - dropped) / (before + grown) if before + grown else 1.0


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    try:
        check_regular(path)
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MOST_TEXT), b""), 1):
                if len(raw) == MOST_TEXT:
                    problem = f"line {number} is longer than any that a run writes"
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
        raise CheckpointError(path, f"{where} is not an object")
    return line


def _loads(raw: bytes) -> Any:
    """What JSON stands for; numbers that cannot be added up or drawn are None."""
    return json.loads(
        raw.decode(), parse_int=_int, parse_float=_float, parse_constant=lambda name: None
    )


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) < 17 else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) <= _LARGEST else None


def is_number(value: object) -> bool:
    """Whether it is an int or a float; a bool is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number_keys(lines: list[Line]) -> list[str]:
    """Keys other than `step` that hold numbers, in the order of their first appearance."""
    found: dict[str, None] = {}
    for line in lines:
        found |= {k: None for k, v in line.items() if k != "step" and is_number(v)}
    return list(found)


def read_versions(path: Path) -> list[dict[str, Any]]:
    """The entries of versions.json; none if the run did not write it.

    Raises:
        CheckpointError: the file is not what a run writes.
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
