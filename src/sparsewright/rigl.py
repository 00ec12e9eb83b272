"""RigL: sparse training that grows where the dense gradient is largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.errors import ExclusiveOptionsError
from sparsewright.init import InitMethod
from sparsewright.schedules import ScheduleLike, UpdateLike
from sparsewright.session.settings import Choices, LevelLike, check_keywords, level_of
from sparsewright.structures import Groups, make_structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RigL"]


class RigL(DynamicSparsityAlgorithm):
    """Drop the smallest weights, regrow where the dense gradient is largest in magnitude.

    At each update the `floor((1 - drop_fraction) * live)` live connections of largest |w| stay;
    among all other positions, those of largest |dense gradient| (of this step, summed over its
    micro-batches) are grown until `num_kept(level, n)`.

    Args:
        drop_fraction: fraction of the live connections to drop, 0..1: a number, a list, a dict, a
            function of the step or a schedule.
        balance_in_groups: divide the weight's input dimension into so many groups, each with
            its own equal share of connections, in the initial mask, the drop and the growth: the
            same as `structure=Groups(inputs=...)`.
        balance_out_groups: the same for the output dimension.
        sparsity: level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`.
        init_method: the mask at step 0.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Raises:
        MissingOptionError: no level; the first argument is the drop fraction.
        ExclusiveOptionsError: both kinds of groups, or groups and a structure.
        ShapeError: on applying, a dimension that the groups do not divide.

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
            sparsity = level_of(type(self), structure, drop_fraction)
        super().__init__(sparsity, update, init_method, **choices)
        if given and "structure" not in given:
            self._structure = Groups(balance_in_groups, balance_out_groups)
        self.schedules.add("drop_fraction", drop_fraction)
        self.balance_in_groups, self.balance_out_groups = balance_in_groups, balance_out_groups

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Drop by magnitude, grow by dense gradient."""
        drop, score = self.scheduled("drop_fraction"), self.gradient_score(p)
        return self.structure.drop_and_grow(p, mask, sparsity, drop, score)
