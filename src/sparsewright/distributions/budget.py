"""Shared checks of distributions: layers that stay dense, and the budget of a level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.filters import as_globs, matched
from sparsewright.errors import LevelError, OptionError

Shapes = Mapping[str, Sequence[int]]
"""A mapping `{full name: shape}`."""

BUDGETS = ("each", "all")


def check_dense(dense: str | Sequence[str], budget: str) -> tuple[str, ...]:
    """Check the options `dense` and `budget`, and return the globs of layers to keep dense.

    Args:
        dense: one or more globs.
        budget: `"each"` if the level applies to the other layers, `"all"` if it applies to all.

    Raises:
        OptionError: `budget` is unknown.
        OptionTypeError: `dense` is not a glob or a list of globs.
    """
    if budget not in BUDGETS:
        raise OptionError("budget", budget, BUDGETS)
    return as_globs("dense", dense)


def dense_reasons(
    by: str, dense: str | Sequence[str], levels: Mapping[str, float], level: Level
) -> dict[str, str]:
    """Return why layers stay dense although the requested level is above 0, as `{name: phrase}`.

    Args:
        by: name of the distribution.
        dense: globs of layers to keep dense.
        levels: level of each layer. The distribution reduced the densities of all layers at level 0
            that match no glob.
        level: requested level, 0..1.
    """
    stay = matched("dense", check_dense(dense, "all"), list(levels))
    reasons = {name: f"dense: matches {glob!r}" for name, glob in stay.items()}
    if as_decimal(level):
        over = [name for name, each in levels.items() if not each]
        reasons = dict.fromkeys(over, f"dense: its {by} density would exceed 1") | reasons
    return reasons


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
        raise too_sparse(sparsity, total - dense, total, "some layers stay dense")
    return pruned


def too_sparse(sparsity: Level, most: int, total: int, reason: str) -> LevelError:
    """Return the error for a level that would prune more entries than the layers allow.

    Args:
        sparsity: the requested level.
        most: number of entries that can be pruned.
        total: number of entries in all layers.
        reason: why no more entries can be pruned, as a clause that follows "because".

    >>> str(too_sparse(0.9, 2, 3, "one layer stays dense"))
    'sparsity must be at most 0.666666, because one layer stays dense; got 0.9.'
    >>> str(too_sparse(0.9, 99, 10**6, "one layer stays dense"))
    'sparsity must be at most 0.000099, because one layer stays dense; got 0.9.'
    """
    # Rounded down, so that the layers can reach the level in the message.
    highest = math.floor(Fraction(most, max(total, 1)) * 10**6) / 10**6
    shown = f"{highest:.6f}".rstrip("0").rstrip(".")
    return LevelError("sparsity", sparsity, f"at most {shown}, because {reason}")
