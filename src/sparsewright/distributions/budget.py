"""Shared checks of distributions: layers that stay dense, and the budget of a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.filters import as_globs
from sparsewright.errors import LevelError, OptionError

Shapes = Mapping[str, Sequence[int]]
"""A mapping `{full name: shape}`."""

BUDGETS = ("sparse", "all")


def check_dense(dense: str | Sequence[str], budget: str) -> tuple[str, ...]:
    """Check the options `dense` and `budget`, and return the globs of layers to keep dense.

    Args:
        dense: one or more globs.
        budget: `"sparse"` if the level applies to the other layers, `"all"` if it applies to all.

    Raises:
        OptionError: `budget` is unknown.
        OptionTypeError: `dense` is not a glob or a list of globs.
    """
    if budget not in BUDGETS:
        raise OptionError("budget", budget, BUDGETS)
    return as_globs("dense", dense)


def check_budget(sparsity: Level, dense: int, total: int) -> Fraction:
    """Return the number of entries that a level prunes in all layers together.

    Args:
        sparsity: level of all layers together, 0..1.
        dense: number of entries in the layers that stay dense.
        total: number of entries in all layers.

    Raises:
        LevelError: the layers that do not stay dense have fewer entries than that.
    """
    pruned = Fraction(as_decimal(sparsity)) * total
    if pruned > total - dense:
        most = (total - dense) / total
        raise LevelError(
            "sparsity", sparsity, f"at most {most:.6g}, because some layers stay dense"
        )
    return pruned
