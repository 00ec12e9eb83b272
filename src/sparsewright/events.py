"""What happens during a run, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MaskUpdate"]


@dataclass(frozen=True)
class MaskUpdate:
    """One mask changed at one update step.

    Attributes:
        step: optimizer steps completed.
        name: full name of the sparse parameter.
        total: entries of the weight.
        kept: live connections after the update.
        target: the level that was asked for, 0..1.
        computed: the level measured from the new mask, 0..1.
        dropped: connections live before and not after.
        grown: connections live after and not before.
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
        """The share of connections that changed: `(dropped + grown) / max(1, kept)`."""
        return (self.dropped + self.grown) / max(1, self.kept)
