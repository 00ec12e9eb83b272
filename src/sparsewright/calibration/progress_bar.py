"""A progress bar on a terminal, if tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """A progress bar."""

    def update(self, n: float = 1) -> object:
        """Advance the bar."""

    def close(self) -> None:
        """End the bar."""


class _NoBar:
    def update(self, n: float = 1) -> None:
        return

    def close(self) -> None:
        return


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Bar]:
    """Show a progress bar inside the block; nothing if stderr is not a terminal.

    Args:
        total: number of steps.
        what: name of the work.
    """
    bar: Bar
    try:
        from tqdm import tqdm
    except ImportError:
        bar = _NoBar()
    else:
        bar = tqdm(total=total, desc=what, unit="block", disable=None)
    try:
        yield bar
    finally:
        bar.close()
