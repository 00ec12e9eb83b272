"""A warning for training steps that a session does not see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsewright.session.followed import Followed

logger = logging.getLogger("sparsewright")


class StepWatch:
    """Log once that weights are trained although no followed optimizer steps.

    Args:
        followed: the followed optimizers; the session keeps this list up to date.
    """

    def __init__(self, followed: Sequence[Followed]) -> None:
        self._followed, self._has_told = followed, False

    def tell(self) -> None:
        """Log the warning, unless it was logged before."""
        if self._has_told:
            return
        self._has_told = True
        names = [type(optimizer).__name__ for f in self._followed for optimizer in f.members]
        stepped = f"step() was not called on {', '.join(names)}"
        logger.warning(
            "sparse weights are being trained, but "
            f"{stepped if names else 'no optimizer was passed to apply()'}, so weights are not "
            "pruned and masks are not updated; pass the optimizer whose step() you call to "
            "apply(), or call update() after each step"
        )
