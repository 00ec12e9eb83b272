"""One function per operation; each picks the fastest way that fits its arguments.

`reference` holds the slow twins, which say what every function here computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    rows, n = score.shape
    if score.device.type == "cpu":
        # numpy has no bfloat16 and a slow float16; float32 holds both exactly.
        exact = score if score.dtype in (torch.float32, torch.float64) else score.float()
        values = exact.detach().numpy()
        if rows <= n:
            kth = np.array([_kth_of_row(row, int(i)) for row, i in zip(values, k, strict=True)])
        else:
            ordered = np.partition(values, np.unique(n - k.numpy()), axis=1)
            kth = np.take_along_axis(ordered, (n - k.numpy())[:, None], axis=1)[:, 0]
        return torch.from_numpy(kth).to(score.dtype)
    largest = torch.topk(score, int(k.max()), dim=1, sorted=rows > 1).values
    if rows == 1:
        return largest.amin(dim=1)
    return largest.gather(1, (k - 1).unsqueeze(1).to(score.device)).squeeze(1)


def _kth_of_row(values: np.ndarray[Any, Any], k: int) -> Any:
    """The k-th largest of a long row.

    Pruned weights and non-candidates make most of a row equal to its minimum, on which introselect
    is slow (2.4 s instead of 0.13 s for 16M entries, 90% equal), so those are left out.
    """
    lowest = values.min()
    above = values[values > lowest]
    return lowest if k > above.size else np.partition(above, above.size - k)[above.size - k]
