"""Uniform+ levels, which spare the first convolution and the last layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.distributions.budget import Shapes, too_sparse

_LEAST_OF_LAST = Fraction(1, 5)  # of the entries of the last layer are kept


def uniform_plus(shapes: Shapes, sparsity: Level) -> dict[str, float]:
    """Return one level for all layers, but spare the first convolution and the last layer.

    The first layer stays dense if it is a convolution (more than two dimensions). The last layer
    keeps at least 20% of its entries, `round(0.2 * n)`. The common level of the other layers makes
    the layers prune `sparsity * N` of all N entries together.

    Args:
        shapes: `{name: shape}` in the order of the layers.
        sparsity: level of all layers together, including a dense first layer, 0..1.

    Returns:
        `{name: level}`.

    Raises:
        LevelError: the other layers have too few entries for the level.

    >>> shapes = {"stem": (10, 1, 3, 3), "body": (20, 10, 3, 3), "head": (10, 20)}
    >>> levels = uniform_plus(shapes, 0.9)
    >>> {name: round(level, 3) for name, level in levels.items()}
    {'stem': 0.0, 'body': 0.956, 'head': 0.8}

    Source: T. Gale et al., "The state of sparsity in deep neural networks", arXiv:1902.09574; the
    code of J. Lee et al., arXiv:2010.07611.
    """
    level = Fraction(as_decimal(sparsity))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    names, total = list(shapes), sum(sizes.values())
    dense = names[:1] if names and len(shapes[names[0]]) > 2 else []
    last = [name for name in names[-1:] if name not in dense]
    middle = [name for name in names if name not in dense + last]
    spared = sum(sizes[name] - round(_LEAST_OF_LAST * sizes[name]) for name in last)
    others = sum(sizes[name] for name in middle)
    if level * total > others + spared:
        reasons = ["the first layer, a convolution, stays dense"] if dense else []
        reasons += ["the last layer keeps 20%"] if last else []
        raise too_sparse(sparsity, others + spared, total, " and ".join(reasons))
    pruned = level * total
    common = pruned / max(others + sum(sizes[name] for name in last), 1)
    of_last = common
    if any(common * sizes[name] > spared for name in last):
        of_last = Fraction(spared, sizes[last[0]])
        common = (pruned - spared) / max(others, 1)
    held = dict.fromkeys(dense, Fraction(0)) | dict.fromkeys(last, of_last)
    return {name: float(held.get(name, common)) for name in names}


@dataclass
class UniformPlus(Distribution):
    """Use uniform+ levels, as the function `uniform_plus` returns them."""

    name: ClassVar[str] = "uniform_plus"

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        return uniform_plus(shapes, level)

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return why the first and the last layer have levels of their own."""
        levels, names = uniform_plus(shapes, level), list(shapes)
        reasons = {
            name: "last layer: keeps 20%"
            for name in names[-1:]
            if levels[name] < max(levels.values())
        }
        return reasons | {
            name: "dense: first layer, a convolution" for name in names[:1] if len(shapes[name]) > 2
        }
