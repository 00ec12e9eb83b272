"""ERK levels, which keep a layer denser if it has few entries per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsewright.core.counts import Level
from sparsewright.distributions.budget import Shapes, check_dense
from sparsewright.distributions.proportional import Proportional, scaled_levels
from sparsewright.errors import OptionError, OptionTypeError


def erk(
    shapes: Shapes,
    sparsity: Level,
    *,
    power: float = 1.0,
    dense: str | Sequence[str] = (),
    budget: str = "each",
) -> dict[str, float]:
    """Return the Erdős-Rényi-Kernel (ERK) level of each layer.

    A layer of n entries gets the density `e * r` with `r = (sum(shape) / n) ** power`. The factor
    `e` makes the layers keep `n - floor(sparsity * n)` entries, summed over the layers. If the
    largest densities exceed 1, those layers become dense, and `e` is computed again for the others.

    Args:
        shapes: `{name: shape}`; a convolution has the shape `(out, in, *kernel)`.
        sparsity: level of the layers together, 0..1.
        power: exponent, >= 0; 0 gives uniform levels and 1 gives the paper's levels.
        dense: globs of layers that stay dense.
        budget: `"each"`: `sparsity` applies to the layers that do not stay dense; `"all"`: it
            applies to all layers.

    Returns:
        `{name: level}`.

    Raises:
        LevelError: the layers that do not stay dense have too few entries for the level.
        OptionError: a glob matches no layer, or an option is out of range.
        OptionTypeError: an option has the wrong type.

    >>> levels = erk({"square": (100, 100), "wide": (10, 1000)}, 0.5)
    >>> {name: round(level, 3) for name, level in levels.items()}
    {'square': 0.835, 'wide': 0.165}

    Source: U. Evci et al., "Rigging the lottery: making all tickets winners", arXiv:1911.11134,
    and its code; D. Mocanu et al., arXiv:1707.04780.
    """
    _check_power(power)
    ratios = {
        name: ((sum(shape) or 1) / (math.prod(shape) or 1)) ** power
        for name, shape in shapes.items()
    }
    return scaled_levels(shapes, sparsity, ratios, dense, budget)


def _check_power(power: float) -> None:
    if isinstance(power, bool) or not isinstance(power, int | float):
        raise OptionTypeError("power", power, "a number >= 0")
    if not 0 <= power < math.inf:
        raise OptionError("power", power, "a number >= 0")


@dataclass
class ERK(Proportional):
    """Use Erdős-Rényi-Kernel (ERK) levels, as the function `erk` returns them."""

    name: ClassVar[str] = "erk"

    power: float = 1.0
    dense: str | Sequence[str] = ()
    budget: str = "each"

    def __post_init__(self) -> None:
        _check_power(self.power)
        self.dense = check_dense(self.dense, self.budget)

    def levels(self, shapes: Mapping[str, torch.Size], level: Level) -> dict[str, float]:
        """Return the level of each layer."""
        return erk(shapes, level, power=self.power, dense=self.dense, budget=self.budget)
