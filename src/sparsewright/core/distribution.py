"""The base class of distributions, which assign a level to each layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sparsewright.core.counts import Level, as_decimal


class Statistics(Protocol):
    """Facts about the model, computed on request, that a distribution can use."""

    def weight(self, name: str) -> Tensor:
        """Return the current value of the named weight, which may be sharded."""

    def score(self, name: str) -> Tensor | None:
        """Return the scores that rank the named weight's entries among all entries.

        For the first masks, these are the scores of `init.from_scores`, with the weight's shape and
        sharding. None: entries are ranked by magnitude.
        """


class Distribution(ABC):
    """Divide a level among layers.

    Attributes:
        name: value of `type` in a config.
        needs_weights: whether the distribution reads weights or scores, so its levels depend on
            the step.
        has_exact_total: whether all layers together keep exactly `num_kept(level, N)` of N entries
            when each layer is one row of single entries.
        uses_level: whether levels depend on the requested level.
        is_uniform: whether every layer gets the requested level.
        has_one_level: whether every layer gets the requested level or stays dense.
    """

    name: ClassVar[str]
    needs_weights: ClassVar[bool] = False
    has_exact_total: ClassVar[bool] = False
    uses_level: bool = True
    is_uniform: bool = False
    has_one_level: bool = False

    @abstractmethod
    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer.

        Args:
            shapes: shape of each layer's weight, by full parameter name.
            level: requested level, 0..1.
            statistics: provides the weights and their scores.

        Returns:
            `{name: level}`, levels 0..1; a layer keeps `num_kept(level, numel)` entries.

        Raises:
            LevelError: the layers cannot reach the requested level; the message names the nearest
                level that they can reach.
        """

    def check(self, shapes: Mapping[str, torch.Size], level: Level) -> None:
        """Raise LevelError if layers of these shapes cannot reach a level with any weights.

        `apply` calls this method for the levels of a schedule if the distribution reads weights.
        Other distributions raise the error themselves when `apply` calls them.
        """
        as_decimal(level)

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return why layers have their levels, as phrases for `sparsewright plan`.

        Args:
            shapes: shape of each layer's weight, by full parameter name.
            level: requested level, 0..1.

        Returns:
            `{name: phrase}`; for a layer without a phrase, the plan gives the distribution's name.
        """
        return {}
