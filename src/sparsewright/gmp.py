"""Gradual magnitude pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.errors import ExclusiveOptionsError, OptionError
from sparsewright.init import InitMethod
from sparsewright.schedules import ScheduleLike, UpdateLike
from sparsewright.schedules.schedule import constant_value
from sparsewright.session.settings import Choices, LevelLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["GMP"]


class GMP(DynamicSparsityAlgorithm):
    """Keep the weights with the largest magnitude while the sparsity level changes over time.

    At each update, `mask = top num_kept(level, n) of |w|`. The update also prunes layers without a
    gradient in this step. Frozen layers keep their masks.

    Args:
        sparsity: a schedule of sparsity levels, 0..1, as for `SparsityAlgorithm`; the paper uses
            `Cubic`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: makes the mask at step 0 if step 0 is an update step.
        schedule: alias for `sparsity`.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Raises:
        OptionError: the level is constant.
        ExclusiveOptionsError: both `sparsity` and `schedule` were given.

    Source: M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for
    model compression", arXiv:1710.01878, section 3.
    """

    name: ClassVar[str] = "gmp"
    paper: ClassVar[str] = "arXiv:1710.01878"
    needs_gradient: ClassVar[bool] = False

    def __init__(
        self,
        sparsity: LevelLike | None = None,
        update: UpdateLike = None,
        init_method: str | InitMethod = "random",
        *,
        schedule: ScheduleLike | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        if schedule is not None:
            if sparsity is not None:
                raise ExclusiveOptionsError(["sparsity", "schedule"])
            sparsity = schedule
        super().__init__(sparsity, update, init_method, **choices)
        for name, level in self.schedules.items():
            if (constant := constant_value(level)) is not None:
                allowed = "a schedule that changes, such as Cubic"
                advice = "For a constant level, use Static."
                raise OptionError(f"{name} of GMP", constant, allowed, advice=advice)

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Keep the `num_kept(sparsity, n)` entries with the largest |p|."""
        return self.structure.topk(p, sparsity, magnitude=True)
