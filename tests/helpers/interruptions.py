"""Simulated Ctrl-C at a chosen line of the library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import sparsewright

_ROOT = str(Path(sparsewright.__file__).parent)

Line = tuple[str, int]


def lines_of(call: Callable[[], object]) -> list[Line]:
    """Return the lines of the library that a call runs, in order: (file, number)."""
    lines: list[Line] = []
    _traced(call, lambda line: lines.append(line))
    return lines


def places_in(call: Callable[[], object]) -> list[int]:
    """Return the places, counted from 0, at which a call first and last runs each line."""
    lines = lines_of(call)
    first = {line: place for place, line in reversed(list(enumerate(lines)))}
    last = {line: place for place, line in enumerate(lines)}
    return sorted({*first.values(), *last.values()})


def interrupt(call: Callable[[], object], place: int) -> bool:
    """Call a function and raise KeyboardInterrupt at one of the lines that it runs.

    Returns:
        Whether the call reached that line.
    """
    left = place

    def count(line: Line) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise KeyboardInterrupt(line)

    try:
        _traced(call, count)
    except KeyboardInterrupt:
        return True
    return False


def _traced(call: Callable[[], object], see: Callable[[Line], None]) -> None:
    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_ROOT):
            return None
        if event == "line":
            see((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        if "torch._dynamo" in sys.modules:  # the interrupt may have skipped a context exit
            torch.compiler.set_stance("default")
