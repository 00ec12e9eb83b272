"""What distributions share: layers that stay dense, and whether they count in the level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.filters import GlobFilter
from sparsewright.errors import LevelError, OptionError, OptionTypeError
from sparsewright.wording import close_names

Shapes = Mapping[str, Sequence[int]]
"""Full name -> shape."""

BUDGETS = ("sparse", "all")


def check_dense(dense: str | Sequence[str], budget: str) -> tuple[str, ...]:
    """Return the globs of layers to keep dense.

    Args:
        dense: a glob or several.
        budget: `"sparse"` or `"all"`: which layers the level is about.

    Raises:
        OptionError: an unknown budget.
        OptionTypeError: something else than globs.
    """
    if budget not in BUDGETS:
        raise OptionError("budget", budget, BUDGETS)
    globs = [dense] if isinstance(dense, str) else dense
    if not isinstance(globs, list | tuple) or not all(isinstance(glob, str) for glob in globs):
        raise OptionTypeError("dense", dense, "a glob or a list of globs")
    return tuple(globs)


def matched(what: str, globs: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Return, for each name that a glob matches, the first glob that does.

    Args:
        what: the option that holds the globs, for errors.

    Raises:
        OptionError: a glob matches no name.
    """
    found: dict[str, str] = {}
    for glob in globs:
        picked = [name for name in names if GlobFilter([glob])(name, None)]
        if not picked:
            near = close_names(glob, names, 3)
            advice = f"Similar names: {', '.join(near)}." if near else ""
            raise OptionError(what, glob, "a glob that matches a sparse weight", advice=advice)
        found = dict.fromkeys(picked, glob) | found
    return found


def check_budget(sparsity: Level, dense: int, total: int) -> Fraction:
    """Return how many entries of all layers a level prunes.

    Args:
        sparsity: the level of all layers together.
        dense: entries of those that stay dense.
        total: entries of all.

    Raises:
        LevelError: the others have fewer entries than that.
    """
    pruned = Fraction(as_decimal(sparsity)) * total
    if pruned > total - dense:
        most = (total - dense) / total
        raise LevelError(
            "sparsity", sparsity, f"at most {most:.6g}, because some layers stay dense"
        )
    return pruned
