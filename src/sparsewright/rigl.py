"""RigL: sparse training that grows connections where the dense gradient is largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sparsewright.distributions import make_distribution
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.errors import ExclusiveOptionsError
from sparsewright.init import InitMethod
from sparsewright.schedules import ScheduleLike, UpdateLike
from sparsewright.session.settings import Choices, LevelLike, check_keywords, level_of
from sparsewright.structures import Groups, make_structure
from sparsewright.structures.groups import check_groups

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RigL"]


class RigL(DynamicSparsityAlgorithm):
    """Drop the smallest weights and regrow connections where the dense gradient is largest.

    Each update keeps the `floor((1 - drop_fraction) * live)` live connections with the largest
    |w|. It then grows the positions with the largest |dense gradient| among all others until
    `num_kept(level, n)` are live. The gradient is that of this step, summed over its
    micro-batches.

    Args:
        drop_fraction: fraction of the live connections to drop, 0..1: a number, a list, a dict, a
            function of the step or a schedule.
        balance_in_groups: number of groups along the weight's input dimension (1). Each group has
            an equal share of the connections in the initial mask, the drop and the growth. This
            is equivalent to `structure=Groups(inputs=...)`.
        balance_out_groups: number of groups along the output dimension (0).
        sparsity: sparsity level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: makes the mask at step 0.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Raises:
        MissingOptionError: `sparsity` was not given; the first argument is the drop fraction.
        ExclusiveOptionsError: both kinds of groups were given, or groups and a structure.
        ShapeError: raised by `apply` if the number of groups does not divide the dimension.

    Source: U. Evci et al., "Rigging the lottery: making all tickets winners", arXiv:1911.11134,
    algorithm 1.
    """

    name: ClassVar[str] = "rigl"
    paper: ClassVar[str] = "arXiv:1911.11134"
    needs_dense_gradient: ClassVar[bool] = True
    selections: ClassVar[tuple[tuple[str, str], ...]] = (("live", "weight"), ("pruned", "gradient"))

    def __init__(
        self,
        drop_fraction: ScheduleLike = 0.3,
        balance_in_groups: int | None = None,
        balance_out_groups: int | None = None,
        *,
        sparsity: LevelLike | None = None,
        update: UpdateLike = None,
        init_method: str | InitMethod = "random",
        **choices: Unpack[Choices],
    ) -> None:
        check_keywords(type(self), choices)
        options = {
            "balance_in_groups": balance_in_groups,
            "balance_out_groups": balance_out_groups,
            "structure": choices.get("structure"),
        }
        given = [name for name, value in options.items() if value is not None]
        if len(given) > 1:
            raise ExclusiveOptionsError(given, type(self).__name__)
        if sparsity is None:
            structure = make_structure(choices.get("structure"))
            distribution = make_distribution(choices.get("distribution"))
            sparsity = level_of(type(self), structure, distribution, drop_fraction)
        super().__init__(sparsity, update, init_method, **choices)
        if given and "structure" not in given:
            groups = balance_out_groups if balance_in_groups is None else balance_in_groups
            check_groups(given[0], groups)
            self._structure = Groups(balance_in_groups, balance_out_groups)
        self.schedules.add("drop_fraction", drop_fraction)
        self.balance_in_groups, self.balance_out_groups = balance_in_groups, balance_out_groups

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Drop connections by magnitude and grow others by dense gradient."""
        drop, score = self.scheduled("drop_fraction"), self.gradient_score(p)
        return self.structure.drop_and_grow(p, mask, sparsity, drop, score)
