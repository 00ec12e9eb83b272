"""A guard for work that an exception or Ctrl-C must not leave half done."""

from __future__ import annotations

from collections.abc import Callable


def finish(work: Callable[[], None], undo: Callable[[], None] = lambda: None) -> None:
    """Call `work`; if an exception interrupts it, complete it before the exception propagates.

    Ctrl-C can raise at any line, even between two assignments that belong together. After an
    interruption, `undo` is called, then `work` is called again.

    Args:
        work: function to call; after `undo`, it must give the same result even if the first call
            was interrupted at any point.
        undo: function that reverts what the interrupted call did.

    >>> finish(lambda: print("done"))
    done
    """
    try:
        work()
    except BaseException:  # re-raised once the work is complete
        undo()
        work()
        raise
