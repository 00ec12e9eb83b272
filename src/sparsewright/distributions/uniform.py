"""Uniform levels, which are the same in every layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.core.filters import matched
from sparsewright.distributions.budget import Shapes, check_budget, check_dense, dense_reasons


def uniform(
    shapes: Shapes, sparsity: Level, *, dense: str | Sequence[str] = (), budget: str = "each"
) -> dict[str, float]:
    """Return the same level for every layer that does not stay dense.

    Args:
        shapes: `{name: shape}`.
        sparsity: level, 0..1.
        dense: globs of layers that stay dense.
        budget: `"each"`: `sparsity` is the level of each layer that does not stay dense.
            `"all"`: `sparsity` is the level of all layers together, including dense layers. The
            other layers then get the level `sparsity * N / (N - N_dense)`, where the layers have
            N entries and the dense layers N_dense.

    Returns:
        `{name: level}`.

    Raises:
        LevelError: the layers that do not stay dense have too few entries for the level.
        OptionError: a glob matches no layer, or `budget` is unknown.

    >>> uniform({"stem": (10, 10), "fc": (10, 30)}, 0.75, dense="stem", budget="all")
    {'stem': 0.0, 'fc': 1.0}
    """
    stay = matched("dense", check_dense(dense, budget), list(shapes))
    level = float(as_decimal(sparsity))
    if budget == "all":
        total = sum(math.prod(shape) for shape in shapes.values())
        kept = sum(math.prod(shapes[name]) for name in stay)
        level = float(check_budget(sparsity, kept, total) / max(total - kept, 1))
    return {name: 0.0 if name in stay else level for name in shapes}


@dataclass
class Uniform(Distribution):
    """Use the same level in every layer, as the function `uniform` does."""

    name: ClassVar[str] = "uniform"

    dense: str | Sequence[str] = ()
    budget: str = "each"

    def __post_init__(self) -> None:
        self.dense = check_dense(self.dense, self.budget)
        self.is_uniform = not self.dense
        self.has_one_level = self.budget == "each"

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        return uniform(shapes, level, dense=self.dense, budget=self.budget)

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return why layers stay dense."""
        return dense_reasons(self.name, self.dense, dict.fromkeys(shapes, 1.0), level)
