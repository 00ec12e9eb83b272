"""Straight-through training: the optimizer trains dense weights, the model uses pruned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.schedules import UpdateLike
from sparsewright.session.settings import Choices, LevelLike, check_keywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["STE"]


class STE(DynamicSparsityAlgorithm):
    """Keep the weights with the largest magnitude, and train the pruned weights too.

    The model computes its loss with `w * mask`, where `mask = top num_kept(level, n) of |w|`. The
    gradient with respect to the masked weight updates all of w. A pruned connection therefore
    continues to train, and can grow back with its updated value.

    Args:
        sparsity: sparsity level, 0..1, as for `SparsityAlgorithm`.
        update: when masks change, as for `DynamicSparsityAlgorithm`; None means after each step.
        choices: `seed`, `distribution` and `structure`, as for `SparsityAlgorithm`; `storage` can
            only be `"shadowed"`.

    Raises:
        IncompatibleOptionError: `storage` is not `"shadowed"`; other storages discard the values
            of pruned connections.

    Source: Y. Bengio, N. Leonard, A. Courville, "Estimating or propagating gradients through
    stochastic neurons for conditional computation", arXiv:1308.3432, section 4; for N:M masks
    A. Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch",
    arXiv:2102.04010, section 4.1.
    """

    name: ClassVar[str] = "ste"
    paper: ClassVar[str] = "arXiv:1308.3432"
    storages: ClassVar[tuple[str, ...]] = ("shadowed",)

    def __init__(
        self,
        sparsity: LevelLike | None = None,
        update: UpdateLike = None,
        **choices: Unpack[Choices],
    ) -> None:
        check_keywords(type(self), choices)
        super().__init__(sparsity, update, "topk", **choices)

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        """Keep the `num_kept(sparsity, n)` entries of the dense weight with the largest |p|."""
        return self.structure.topk(p, sparsity, magnitude=True)
