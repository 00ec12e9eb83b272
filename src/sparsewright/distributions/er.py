"""ER levels, which keep a layer denser if it has few connections per neuron or channel."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsewright.core.counts import Level
from sparsewright.core.filters import matched
from sparsewright.distributions.budget import Shapes, check_dense
from sparsewright.distributions.proportional import Proportional, scaled_levels
from sparsewright.errors import (
    ExclusiveOptionsError,
    IncompatibleOptionError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
)

logger = logging.getLogger("sparsewright")


def er(
    shapes: Shapes,
    sparsity: Level | None = None,
    *,
    epsilon: float | None = None,
    dense: str | Sequence[str] = (),
    budget: str = "each",
) -> dict[str, float]:
    """Return the Erdős-Rényi (ER) level of each layer, for a level or for a factor.

    A layer gets the density `e * (out + in) / (out * in)`, where `out` and `in` are its first two
    dimensions; kernel sizes do not count, unlike in `erk`. A vector gets the density `e`.

    With `sparsity`, the factor `e` makes the layers keep `n - floor(sparsity * n)` of n entries,
    summed over the layers. If the largest densities exceed 1, those layers become dense, and `e` is
    computed again for the others. With `epsilon`, `e` is `epsilon`; densities above 1 are reduced
    to 1, and the layers are logged.

    Args:
        shapes: `{name: shape}`; a convolution has the shape `(out, in, *kernel)`.
        sparsity: level of the layers together, 0..1.
        epsilon: the factor, > 0; give this or `sparsity`. The paper's MLPs have 20.
        dense: globs of layers that stay dense.
        budget: for `sparsity`. `"each"`: it applies to the layers that do not stay dense; `"all"`:
            it applies to all layers.

    Returns:
        `{name: level}`.

    Raises:
        ExclusiveOptionsError: both `sparsity` and `epsilon` are given.
        IncompatibleOptionError: `budget` is `"all"`, and `epsilon` is given.
        LevelError: the layers that do not stay dense have too few entries for the level.
        MissingOptionError: neither `sparsity` nor `epsilon` is given.
        OptionError: a glob matches no layer, or an option is out of range.
        OptionTypeError: an option has the wrong type.

    >>> er({"first": (100, 400), "second": (100, 100), "last": (10, 100)}, epsilon=20)
    {'first': 0.75, 'second': 0.6, 'last': 0.0}
    >>> levels = er({"conv": (30, 20, 5, 5), "fc": (10, 100)}, 0.9)
    >>> {name: round(level, 3) for name, level in levels.items()}
    {'conv': 0.902, 'fc': 0.871}

    Source: D. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", arXiv:1707.04780; U. Evci et al., arXiv:1911.11134.
    """
    ratios = {name: _ratio(shape) for name, shape in shapes.items()}
    if epsilon is None:
        if sparsity is None:
            raise MissingOptionError("a level or epsilon", "er")
        return scaled_levels(shapes, sparsity, ratios, dense, budget)
    if sparsity is not None:
        raise ExclusiveOptionsError(["sparsity", "epsilon"])
    _check_epsilon(epsilon, budget)
    stay = matched("dense", check_dense(dense, budget), list(shapes))
    over = [name for name, ratio in ratios.items() if epsilon * ratio > 1 and name not in stay]
    if over:
        logger.info(
            "er with epsilon=%s: these layers stay dense, because their density would exceed 1: %s",
            epsilon,
            ", ".join(over),
        )
    return {
        name: 0.0 if name in stay else 1 - min(epsilon * ratio, 1.0)
        for name, ratio in ratios.items()
    }


def _ratio(shape: Sequence[int]) -> float:
    """Return `(out + in) / (out * in)`; 1 for vectors, scalars and empty weights."""
    channels = shape[:2]
    size = math.prod(channels)
    return sum(channels) / size if channels and size else 1.0


def _check_epsilon(epsilon: float, budget: str) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float):
        raise OptionTypeError("epsilon", epsilon, "a number > 0")
    if not 0 < epsilon < math.inf:
        raise OptionError("epsilon", epsilon, "a number > 0")
    if budget == "all":
        raise IncompatibleOptionError(
            "budget", budget, f"epsilon={epsilon}", "sets densities without a budget", ["each"]
        )


@dataclass
class ER(Proportional):
    """Use Erdős-Rényi (ER) levels, as the function `er` returns them.

    With `epsilon`, the levels depend on the shapes only, and the algorithm's level is not used.
    """

    name: ClassVar[str] = "er"

    epsilon: float | None = None
    dense: str | Sequence[str] = ()
    budget: str = "each"

    def __post_init__(self) -> None:
        self.dense = check_dense(self.dense, self.budget)
        if self.epsilon is not None:
            _check_epsilon(self.epsilon, self.budget)
        self.uses_level = self.epsilon is None

    def levels(self, shapes: Mapping[str, torch.Size], level: Level) -> dict[str, float]:
        """Return the level of each layer."""
        asked = level if self.uses_level else None
        return er(shapes, asked, epsilon=self.epsilon, dense=self.dense, budget=self.budget)
