"""Work that an exception or Ctrl-C must not leave half done."""

from __future__ import annotations

from collections.abc import Callable


def finish(work: Callable[[], None], undo: Callable[[], None] = lambda: None) -> None:
    """Call a function; if it is interrupted, call it again before the exception goes on.

    Ctrl-C raises at any line, also between two assignments that belong together.

    Args:
        work: after `undo`, gives the same result however much of it was done already.
        undo: takes back what an interrupted call has done.

    >>> finish(lambda: print("done"))
    done
    """
    try:
        work()
    except BaseException:  # nothing is caught: it goes on, over work that is done
        undo()
        work()
        raise
