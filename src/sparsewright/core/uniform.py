"""Random scores that are the same however the weight is spread."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewright.kernels import sharded

_BLOCK = 1 << 22


def uniform(
    like: Tensor, generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Uniform numbers in [0, 1), float32, shaped (and if sharded spread) as `like`.

    They are drawn on the CPU in flat order, so they depend neither on the device nor on the ranks:
    each draws the numbers of the shards before its own too, a block at a time, and drops them.

    Args:
        like: the weight, any shape.
        generator: CPU generator; None: the global one.
        device: where they go; None: `like`'s device.
    """
    if not sharded.is_sharded(like):
        return torch.rand(like.shape, generator=generator).to(device or like.device)
    part, at = sharded.local(like), sharded.shards_of(like)
    skip = at.first * at.shape[1:].numel()
    for start in range(0, skip, _BLOCK):
        torch.rand(min(_BLOCK, skip - start), generator=generator)
    own = torch.rand(part.shape, generator=generator)
    return sharded.from_local(own.to(part.device), like)
