"""Levels whose densities are proportional to a ratio of each layer, for a given budget."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.core.filters import matched
from sparsewright.distributions.budget import Shapes, check_budget, check_dense, dense_reasons


def scaled_levels(
    shapes: Shapes,
    sparsity: Level,
    ratios: Mapping[str, float],
    dense: str | Sequence[str],
    budget: str,
) -> dict[str, float]:
    """Return levels with the density `e * ratio`, where the factor `e` meets the budget.

    The layers keep `n - floor(sparsity * n)` entries each, summed over the layers. If the largest
    densities exceed 1, those layers become dense, and `e` is computed again for the others.

    Args:
        shapes: `{name: shape}`.
        sparsity: level of the layers together, 0..1.
        ratios: `{name: ratio}`, each > 0.
        dense: globs of layers that stay dense.
        budget: `"each"`: `sparsity` applies to the layers that do not stay dense; `"all"`: it
            applies to all layers.

    Returns:
        `{name: level}`.

    Raises:
        LevelError: the layers that do not stay dense have too few entries for the level.
        OptionError: a glob matches no layer, or `budget` is unknown.
        OptionTypeError: `dense` is not a glob or a list of globs.
    """
    stay = matched("dense", check_dense(dense, budget), list(shapes))
    level = as_decimal(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(sizes[name] for name in stay)
    if budget == "all":
        check_budget(sparsity, kept, sum(sizes.values()))
    counted = [name for name in shapes if budget == "all" or name not in stay]
    left = sum(sizes[name] - math.floor(level * sizes[name]) for name in counted)
    left -= kept if budget == "all" else 0
    scaled = {name: ratios[name] for name in shapes if name not in stay and sizes[name]}
    scale = 0.0
    while scaled:
        scale = left / sum(ratio * sizes[name] for name, ratio in scaled.items())
        largest = max(scaled.values())
        if scale * largest <= 1:
            break
        for name in [name for name, ratio in scaled.items() if ratio == largest]:
            left -= sizes[name]
            del scaled[name]
    return {name: 1 - scale * scaled[name] if name in scaled else 0.0 for name in shapes}


class Proportional(Distribution):
    """Use levels that depend on the shapes only and leave some layers dense.

    Attributes:
        dense: globs of layers that stay dense.
    """

    dense: str | Sequence[str]

    @abstractmethod
    def levels(self, shapes: Mapping[str, torch.Size], level: Level) -> dict[str, float]:
        """Return the level of each layer, as `{name: level}`."""

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        return self.levels(shapes, level)

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return why layers stay dense."""
        return dense_reasons(self.name, self.dense, self.levels(shapes, level), level)
