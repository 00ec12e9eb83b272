"""Random scores that are the same however the weight is spread."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.kernels import sharded


def uniform(
    like: Tensor, generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Uniform numbers in [0, 1), float32, shaped (and if sharded spread) as `like`.

    They depend on one number drawn from the generator and on their flat index, neither on the
    device nor on the ranks: each makes those of its own shard.

    Args:
        like: the weight, any shape.
        generator: CPU generator; None: the global one.
        device: where they go; None: `like`'s device.
    """
    key = int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator))
    if not sharded.is_sharded(like):
        numbers = torch.empty(like.shape, dtype=torch.float32, device=device or like.device)
        return kernels.uniform_(numbers, key)
    part, at = sharded.local(like), sharded.shards_of(like)
    own = torch.empty(part.shape, dtype=torch.float32, device=part.device)
    return sharded.from_local(kernels.uniform_(own, key, at.first * at.shape[1:].numel()), like)
