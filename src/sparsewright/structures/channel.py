"""Channels of a weight, each kept or pruned as a whole."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.rows import RowStructure
from sparsewright.core.structure import Share
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.structures.sides import check_side, slab_height

_NORM = "a number > 0, or inf"


class Channel(RowStructure):
    """Keep or prune all entries of an output, or of an input; all channels of a weight compete.

    Of n channels, the `num_kept(level, n)` with the highest norm stay. The score of channel c is
    `sum(|s|**norm) ** (1 / norm)` over its entries' scores s, in float64; `norm=inf` is the
    largest |s|.

    The mask sets channels to zero. The layer keeps its size.

    Args:
        axis: 0 for filters (output channels or neurons), 1 for inputs.
        norm: order of the norm, a number > 0 or inf.

    Raises:
        OptionError: `axis` is neither 0 nor 1, or `norm` is not above 0.
        OptionTypeError: `axis` is not an integer, or `norm` is not a number.

    >>> weight = torch.tensor([[3.0, 0.0], [2.0, 2.0]])
    >>> Channel().topk(weight, 0.5)
    tensor([[False, False],
            [ True,  True]])
    >>> Channel(norm=math.inf).topk(weight, 0.5)
    tensor([[ True,  True],
            [False, False]])

    Source: H. Li et al., "Pruning filters for efficient ConvNets", arXiv:1608.08710, section 3.1,
    for `norm=1`.
    """

    name: ClassVar[str] = "channel"

    def __init__(self, axis: int = 0, norm: float = 1) -> None:
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise OptionTypeError("axis", axis, "0 (outputs) or 1 (inputs)")
        if axis not in (0, 1):
            raise OptionError("axis", axis, "0 (outputs) or 1 (inputs)")
        if isinstance(norm, bool) or not isinstance(norm, int | float):
            raise OptionTypeError("norm", norm, _NORM)
        if not norm > 0:
            raise OptionError("norm", norm, _NORM)
        self.axis, self.norm = axis, norm

    @property
    def _dim(self) -> int:
        """Return the dimension of the weight that holds the channels."""
        return self.in_dim if self.axis else self.out_dim

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(1, number of channels)`."""
        return 1, check_side(shape, "input" if self.axis else "output", self._dim)

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the channels' norms as `[1, channels]`; for a mask, whether an entry is live."""
        (_, channels), is_first = self.rows(tensor.shape), self._dim == 0
        if tensor.dtype == torch.bool:
            live = tensor if is_first else tensor.any(0)
            return live.reshape(channels, live.numel() // max(channels, 1)).any(1).unsqueeze(0)
        found = torch.zeros(channels, dtype=torch.float64, device=tensor.device)
        start = 0
        for slab in tensor.split(slab_height(tensor)) if tensor.numel() else ():
            into = found[start : start + len(slab)] if is_first else found
            sizes = slab.abs().reshape(1 if is_first else len(slab), len(into), -1)
            if self.norm == math.inf:
                torch.maximum(into, sizes.amax((0, 2)).double(), out=into)
            elif self.norm == 1:
                into += sizes.sum((0, 2), dtype=torch.float64)
            else:
                into += sizes.double().pow_(self.norm).sum((0, 2))
            start += len(slab)
        return found.pow_(1 if self.norm == math.inf else 1 / self.norm).unsqueeze(0)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[1, channels]` in the weight's shape."""
        sizes = [1] * len(shape)
        sizes[self._dim] = shape[self._dim]
        return chosen.reshape(sizes).expand(shape).contiguous()

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's own channels; if they lie along dimension 1, a part of each channel."""
        self.rows(shape)
        return Share(self, [count]) if self._dim == 0 else Share(self, None, self.norm)

    def __repr__(self) -> str:
        order = "float('inf')" if self.norm == math.inf else repr(self.norm)
        return f"Channel(axis={self.axis}{'' if self.norm == 1 else f', norm={order}'})"
