"""Events of a training run as plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MaskUpdate"]


@dataclass(frozen=True)
class MaskUpdate:
    """Change of one mask at one update step.

    Attributes:
        step: number of completed optimizer steps.
        name: full name of the sparse parameter.
        total: number of entries in the weight.
        kept: number of live connections after the update.
        target: the requested sparsity level, 0..1.
        computed: the sparsity level of the new mask, 0..1.
        dropped: number of connections that were live before the update and are pruned after it.
        grown: number of connections that were pruned before the update and are live after it.
    """

    step: int
    name: str
    total: int
    kept: int
    target: float
    computed: float
    dropped: int
    grown: int

    @property
    def churn(self) -> float:
        """Return the fraction of connections that changed: `(dropped + grown) / max(1, kept)`."""
        return (self.dropped + self.grown) / max(1, self.kept)
