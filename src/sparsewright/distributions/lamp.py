"""LAMP levels, which use one threshold of layer-adaptive magnitude scores for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.counts import Level, num_kept
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.distributions.global_ import first_with_nan
from sparsewright.errors import ScoreError
from sparsewright.kernels.reference import NanError
from sparsewright.kernels.tail_scores import count_largest_tail_scores


def lamp(weights: Mapping[str, Tensor], sparsity: Level) -> dict[str, float]:
    """Return the levels that keep the `num_kept(sparsity, N)` largest LAMP scores of all layers.

    With the squares of a layer in ascending order, the score of the i-th weight is
    `w[i]**2 / sum(w[j]**2 for j >= i)`. The largest weight of a layer has the score 1, so the layer
    keeps it unless the layers outnumber the entries to keep. Sums are float64. On ties, the
    weights of earlier layers are kept.

    A pruned weight is 0: it adds nothing to the sums and has the score 0. Scores in a pruned model
    are therefore the scores among its live weights.

    Args:
        weights: `{name: weight}` of any shapes, with N entries in all. Weights can be sharded if
            all ranks call this function; ranks exchange only histograms.
        sparsity: level of all layers together, 0..1.

    Returns:
        `{name: level}`; each layer keeps exactly `num_kept(level, n)` of its n entries.

    Raises:
        LevelError: `sparsity` is outside 0..1.
        ScoreError: a weight contains NaN.

    >>> lamp({"large": torch.tensor([40.0, 30.0]), "small": torch.tensor([0.2, 0.1])}, 0.25)
    {'large': 0.0, 'small': 0.5}

    Source: J. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning",
    arXiv:2010.07611.
    """
    sizes = {name: weight.numel() for name, weight in weights.items()}
    num = num_kept(sparsity, sum(sizes.values()))
    try:
        counts = count_largest_tail_scores(list(weights.values()), num)
    except NanError:
        raise ScoreError(first_with_nan(weights)) from None
    return {
        name: (size - count) / max(size, 1)
        for (name, size), count in zip(sizes.items(), counts, strict=True)
    }


@dataclass
class LAMP(Distribution):
    """Use one threshold of LAMP scores for all layers, as the function `lamp` does."""

    name: ClassVar[str] = "lamp"
    needs_weights: ClassVar[bool] = True
    has_exact_total: ClassVar[bool] = True

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        return lamp({name: statistics.weight(name) for name in shapes}, level)
