"""Distributions: which layer gets which level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sparsewright.core.counts import Level


class Statistics(Protocol):
    """What a distribution may look at besides shapes, computed when it is asked for."""

    def weight(self, name: str) -> Tensor:
        """Return the weight of this name, as it is now; whole or sharded."""


class Distribution(ABC):
    """Divides a level among layers.

    Attributes:
        name: the `type` in a config.
        needs_weights: whether it looks at weights, so that its levels depend on the step.
        has_exact_total: whether all layers together keep `num_kept(level, N)` of N entries, as long
            as every entry is a unit of one row.
        is_uniform: whether every layer gets the level that was asked for.
    """

    name: ClassVar[str]
    needs_weights: ClassVar[bool] = False
    has_exact_total: ClassVar[bool] = False
    is_uniform: bool = False

    @abstractmethod
    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer.

        Args:
            shapes: of each layer's weight, by its full name.
            level: asked for, 0..1.
            statistics: gives weights.

        Returns:
            The level of each name, 0..1, such that `num_kept(level, numel)` is the layer's count.

        Raises:
            LevelError: no levels of layers meet the level asked for; names the nearest.
        """
