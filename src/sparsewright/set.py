"""Sparse evolutionary training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsewright.core.masks import drop_and_grow
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.init import InitMethod

__all__ = ["SET"]


class SET(DynamicSparsityAlgorithm):
    """Drop the smallest weights, regrow at random.

    At each update the `floor((1 - drop_fraction) * live)` live connections of largest |w| stay;
    among all other positions, random ones are grown until `num_kept(level, n)`.

    Args:
        drop_fraction: fraction of the live connections to drop, 0..1: a number, a list, a dict, a
            function of the step or a schedule.
        sparsity: level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: the mask at step 0.
        seed: seed of the algorithm's own randomness.

    Source: D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science", arXiv:1707.04780, algorithm 1.
    """

    def __init__(
        self,
        drop_fraction: Any = 0.3,
        *,
        sparsity: Any = None,
        update: Any = None,
        init_method: str | InitMethod = "random",
        seed: int = 0,
    ) -> None:
        super().__init__(sparsity, update, init_method, seed=seed)
        self.schedules.add("drop_fraction", drop_fraction)

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Drop by magnitude, grow at random."""
        drop, score = self.scheduled("drop_fraction"), self.random_score(p)
        return drop_and_grow(p, mask, sparsity, drop, score, self.score_shaper)
