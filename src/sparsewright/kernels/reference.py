"""Plain-torch twins of every kernel: slow, short, and the specification of the fast ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def prune_(tensor: Tensor, mask: Tensor) -> None:
    """Set `tensor` to zero, in place, where `mask` is False.

    A selection, not a product: NaN and inf in a pruned place become 0, a kept entry keeps its bits.
    """
    tensor.masked_fill_(~mask, 0)


def select(score: Tensor, num: Sequence[int], among: Tensor | None = None) -> Tensor:
    """Per row, mark the `num[row]` largest scores by a stable sort.

    Args:
        score: `[rows, n]`, floating point, no NaN among the candidates.
        num: how many to mark in each row; a row with fewer candidates marks them all.
        among: bool `[rows, n]`, the candidates; None: all entries.

    Returns:
        Bool mask `[rows, n]`. Of equal scores the lower index is marked.
    """
    mask = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    for row, wanted in enumerate(num):
        order = torch.sort(score[row], descending=True, stable=True).indices
        if among is not None:
            order = order[among[row][order]]
        mask[row, order[:wanted]] = True
    return mask
