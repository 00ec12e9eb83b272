"""Random scores that do not depend on how a weight is sharded."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.kernels import sharded


def uniform(
    like: Tensor, generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Return uniform float32 numbers in [0, 1) with the shape and sharding of `like`.

    Each number depends only on its flat index and on one number drawn from the generator. The
    device and the number of ranks do not matter, and each rank computes only its own shard.

    Args:
        like: the weight, any shape.
        generator: CPU generator; None: torch's global generator.
        device: device of the result; None: the device of `like`.
    """
    key = int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator))
    if not sharded.is_sharded(like):
        numbers = torch.empty(like.shape, dtype=torch.float32, device=device or like.device)
        return kernels.uniform_(numbers, key)
    part, at = sharded.local(like), sharded.shards_of(like)
    own = torch.empty(part.shape, dtype=torch.float32, device=part.device)
    return sharded.from_local(kernels.uniform_(own, key, at.first * at.shape[1:].numel()), like)
