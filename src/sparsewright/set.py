"""Sparse evolutionary training (SET)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sparsewright.distributions import make_distribution
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.init import InitMethod
from sparsewright.schedules import ScheduleLike, UpdateLike
from sparsewright.session.settings import Choices, LevelLike, check_keywords, level_of
from sparsewright.structures import make_structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SET"]


class SET(DynamicSparsityAlgorithm):
    """Drop the smallest weights and regrow connections at random.

    Each update keeps the `floor((1 - drop_fraction) * live)` live connections with the largest
    |w|. It then grows random connections among all other positions until `num_kept(level, n)`
    are live.

    Args:
        drop_fraction: fraction of the live connections to drop, 0..1: a number, a list, a dict, a
            function of the step or a schedule.
        sparsity: sparsity level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: makes the mask at step 0.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Raises:
        MissingOptionError: `sparsity` was not given; the first argument is the drop fraction.

    Source: D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science", arXiv:1707.04780, algorithm 1.
    """

    name: ClassVar[str] = "set"
    paper: ClassVar[str] = "arXiv:1707.04780"
    selections: ClassVar[tuple[tuple[str, str], ...]] = (("live", "weight"), ("pruned", "random"))

    def __init__(
        self,
        drop_fraction: ScheduleLike = 0.3,
        *,
        sparsity: LevelLike | None = None,
        update: UpdateLike = None,
        init_method: str | InitMethod = "random",
        **choices: Unpack[Choices],
    ) -> None:
        check_keywords(type(self), choices)
        if sparsity is None:
            structure = make_structure(choices.get("structure"))
            distribution = make_distribution(choices.get("distribution"))
            sparsity = level_of(type(self), structure, distribution, drop_fraction)
        super().__init__(sparsity, update, init_method, **choices)
        self.schedules.add("drop_fraction", drop_fraction)

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Drop connections by magnitude and grow others at random."""
        drop, score = self.scheduled("drop_fraction"), self.random_score(p)
        return self.structure.drop_and_grow(p, mask, sparsity, drop, score)
