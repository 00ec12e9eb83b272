"""One function per operation; each picks the fastest way that fits its arguments.

`reference` holds the slow twins, which say what every function here computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["prune_", "select"]


def prune_(tensor: Tensor, mask: Tensor) -> None:
    """Set `tensor` to zero, in place, where `mask` is False; NaN and inf vanish there too.

    Args:
        tensor: any floating-point tensor, any device.
        mask: bool, the same shape and device.
    """
    tensor.masked_fill_(~mask, 0)


def select(score: Tensor, num: Sequence[int], among: Tensor | None = None) -> Tensor:
    """Per row, mark the `num[row]` largest scores. No sort, no index tensor.

    The k-th largest score of each row is found by introselect (`numpy.partition`, on a view of the
    CPU tensor) or, on a device, by the values of `torch.topk`; one compare marks what is above, and
    ties at the threshold go to the lower index. The result does not depend on the device.

    Args:
        score: `[rows, n]`, floating point, no NaN among the candidates.
        num: how many to mark in each row; a row with fewer candidates marks them all.
        among: bool `[rows, n]`, the candidates; None: all entries.

    Returns:
        Bool mask `[rows, n]` on score's device.
    """
    rows, n = score.shape
    wanted = torch.as_tensor(num, dtype=torch.int64).clamp(0, n)
    if among is not None:
        score = score.masked_fill(~among, -torch.inf)
        wanted = torch.minimum(wanted, among.sum(dim=1).cpu())
    if rows == 0 or n == 0 or int(wanted.max()) == 0:
        return torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    threshold = _kth_largest(score, wanted.clamp(min=1)).unsqueeze(1)
    wanted = wanted.to(score.device)
    # A row that wants none has its maximum for threshold: nothing is above, no tie is taken.
    mask = score > threshold
    ties = score == threshold
    if among is not None:
        ties &= among
    missing = wanted - mask.sum(dim=1)
    contested = (ties.sum(dim=1) > missing).nonzero().squeeze(1)
    for row in contested.tolist():
        ties[row, ties[row].nonzero().squeeze(1)[int(missing[row]) :]] = False
    return mask.logical_or_(ties)


def _kth_largest(score: Tensor, k: Tensor) -> Tensor:
    """The `k[row]`-th largest entry of each row, `1 <= k <= n`; shape `[rows]`."""
    if score.device.type == "cpu":
        position = score.shape[1] - k.numpy()
        # numpy has no bfloat16 and a slow float16; float32 holds both exactly.
        values = score if score.dtype in (torch.float32, torch.float64) else score.float()
        ordered = np.partition(values.detach().numpy(), np.unique(position), axis=1)
        kth = np.take_along_axis(ordered, position[:, None], axis=1)[:, 0]
        return torch.from_numpy(kth).to(score.dtype)
    largest = torch.topk(score, int(k.max()), dim=1, sorted=len(k.unique()) > 1).values
    if len(k.unique()) == 1:
        return largest.amin(dim=1)
    return largest.gather(1, (k - 1).unsqueeze(1).to(score.device)).squeeze(1)
