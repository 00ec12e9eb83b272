"""What is said when weights are trained by steps that a session does not see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsewright.session.followed import Followed

logger = logging.getLogger("sparsewright")


class StepWatch:
    """Logs, once, that weights change though no optimizer that is followed steps.

    Args:
        followed: the optimizers that are followed, as they come and go.
    """

    def __init__(self, followed: Sequence[Followed]) -> None:
        self._followed, self._has_told = followed, False

    def tell(self) -> None:
        """Log it."""
        if self._has_told:
            return
        self._has_told = True
        names = [type(optimizer).__name__ for f in self._followed for optimizer in f.members]
        stepped = f"the step() of {', '.join(names)} was not called"
        logger.warning(
            "sparse weights are being trained, but "
            f"{stepped if names else 'no optimizer was given to apply()'}, so they are not pruned "
            "and no mask is updated; apply the optimizer whose step() is called, or call update() "
            "after each step"
        )
