"""ERK levels, which keep a layer denser if it has few entries per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.core.filters import matched
from sparsewright.distributions.budget import Shapes, check_budget, check_dense
from sparsewright.errors import OptionError, OptionTypeError


def erk(
    shapes: Shapes,
    sparsity: Level,
    *,
    power: float = 1.0,
    dense: str | Sequence[str] = (),
    budget: str = "sparse",
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
        budget: `"sparse"`: `sparsity` applies to the layers that do not stay dense; `"all"`: it
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
    stay = matched("dense", check_dense(dense, budget), list(shapes))
    level = as_decimal(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(sizes[name] for name in stay)
    if budget == "all":
        check_budget(sparsity, kept, sum(sizes.values()))
    counted = [name for name in shapes if budget == "all" or name not in stay]
    left = sum(sizes[name] - math.floor(level * sizes[name]) for name in counted)
    left -= kept if budget == "all" else 0
    ratios = {
        name: ((sum(shape) or 1) / sizes[name]) ** power
        for name, shape in shapes.items()
        if name not in stay and sizes[name]
    }
    scale = 0.0
    while ratios:
        scale = left / sum(ratio * sizes[name] for name, ratio in ratios.items())
        largest = max(ratios.values())
        if scale * largest <= 1:
            break
        for name in [name for name, ratio in ratios.items() if ratio == largest]:
            left -= sizes[name]
            del ratios[name]
    return {name: 1 - scale * ratios[name] if name in ratios else 0.0 for name in shapes}


def _check_power(power: float) -> None:
    if isinstance(power, bool) or not isinstance(power, int | float):
        raise OptionTypeError("power", power, "a number >= 0")
    if not 0 <= power < math.inf:
        raise OptionError("power", power, "a number >= 0")


@dataclass
class ERK(Distribution):
    """Use Erdős-Rényi-Kernel (ERK) levels, as the function `erk` returns them."""

    name: ClassVar[str] = "erk"

    power: float = 1.0
    dense: str | Sequence[str] = ()
    budget: str = "sparse"

    def __post_init__(self) -> None:
        _check_power(self.power)
        self.dense = check_dense(self.dense, self.budget)

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        return erk(shapes, level, power=self.power, dense=self.dense, budget=self.budget)
