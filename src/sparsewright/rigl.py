"""RigL: sparse training that grows where the dense gradient is largest."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sparsewright.core.errors import OptionError
from sparsewright.core.masks import drop_and_grow
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.init import InitMethod
from sparsewright.structures.groups import Groups

__all__ = ["RigL"]


class RigL(DynamicSparsityAlgorithm):
    """Drop the smallest weights, regrow where the dense gradient is largest in magnitude.

    At each update the `floor((1 - drop_fraction) * live)` live connections of largest |w| stay;
    among all other positions, those of largest |dense gradient| (of this step, summed over its
    micro-batches) are grown until `num_kept(level, n)`.

    Args:
        drop_fraction: fraction of the live connections to drop, 0..1: a number, a list, a dict, a
            function of the step or a schedule.
        balance_in_groups: divide the weight's input dimension (1) into so many groups, each with
            its own equal share of connections, in the initial mask, the drop and the growth.
        balance_out_groups: the same for the output dimension (0).
        sparsity: level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: the mask at step 0.
        seed: seed of the algorithm's own randomness.

    Raises:
        OptionError: both kinds of groups.
        ShapeError: on applying, a dimension that the groups do not divide.

    Source: U. Evci et al., "Rigging the lottery: making all tickets winners", arXiv:1911.11134,
    algorithm 1.
    """

    needs_dense_gradient: ClassVar[bool] = True

    def __init__(
        self,
        drop_fraction: Any = 0.3,
        balance_in_groups: int | None = None,
        balance_out_groups: int | None = None,
        *,
        sparsity: Any = None,
        update: Any = None,
        init_method: str | InitMethod = "random",
        seed: int = 0,
    ) -> None:
        if balance_in_groups is not None and balance_out_groups is not None:
            raise OptionError(
                "balance_out_groups",
                balance_out_groups,
                f"only one kind of groups, and balance_in_groups = {balance_in_groups} is given",
            )
        super().__init__(sparsity, update, init_method, seed=seed)
        self.schedules.add("drop_fraction", drop_fraction)
        self.balance_in_groups, self.balance_out_groups = balance_in_groups, balance_out_groups
        if balance_in_groups is not None or balance_out_groups is not None:
            self.score_shaper = Groups(inputs=balance_in_groups, outputs=balance_out_groups)

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Drop by magnitude, grow by dense gradient."""
        drop, score = self.scheduled("drop_fraction"), self._gradient(p)
        return drop_and_grow(p, mask, sparsity, drop, score, self.score_shaper)
