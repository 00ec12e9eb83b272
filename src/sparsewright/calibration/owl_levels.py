"""OWL levels of a model's blocks, from the inputs of the dense model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from sparsewright.calibration.blocks import Block
from sparsewright.calibration.target import Target
from sparsewright.core.counts import Level
from sparsewright.distributions import owl


def owl_levels(
    blocks: Sequence[Block], among: Sequence[Target], sparsity: Level, options: Mapping[str, float]
) -> dict[str, float]:
    """Return the level of each weight: that of its block.

    Args:
        blocks: the blocks.
        among: the weights that share the level; they have statistics of the dense model.
        sparsity: mean level of the blocks.
        options: keyword arguments of `owl`.
    """
    own = {id(target) for target in among}
    scores = _Scores(
        {block.name: [target for target in block.targets if id(target) in own] for block in blocks}
    )
    levels = owl(scores, sparsity, **options)
    return {
        target.name: level for block, level in levels.items() for target in scores.targets[block]
    }


class _Scores(Mapping[str, Sequence[Tensor]]):
    """Wanda scores of each block, computed when they are read."""

    def __init__(self, targets: Mapping[str, Sequence[Target]]) -> None:
        self.targets = {block: own for block, own in targets.items() if own}

    def __getitem__(self, block: str) -> Sequence[Tensor]:
        return [_score(target) for target in self.targets[block]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)


def _score(target: Target) -> Tensor:
    """Return `|w_ij| * ||x_j||` in float32."""
    weight = target.shapes.matrix(target.param.detach()).to(target.dtype)
    return weight.abs() * target.inputs.norms.to(target.dtype).unsqueeze(1)
