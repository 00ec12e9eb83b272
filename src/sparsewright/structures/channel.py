"""Channels of a weight, each kept or pruned as a whole."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.rows import RowStructure
from sparsewright.core.structure import Share
from sparsewright.errors import OptionError, OptionTypeError, ShapeError
from sparsewright.structures.sides import check_side

_NORM = "a number > 0, or inf"
_POOLS = {1: "sum", 2: "squares", math.inf: "max"}
_SLAB = 1 << 17  # entries whose powers are computed at a time


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

    @property
    def _side(self) -> str:
        """Return what a channel is."""
        return "input" if self.axis else "output"

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(1, number of channels)`."""
        return 1, check_side(shape, self._side, self._dim)

    def check_shape(self, shape: torch.Size) -> None:
        """Raise ShapeError if a weight has a single channel, which a mask cannot prune in part."""
        if self.rows(shape)[1] == 1:
            problem = f"it has a single {self._side}, so a mask would keep all or nothing"
            raise ShapeError("a weight", shape, problem)

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the channels' norms as `[1, channels]`; for a mask, whether an entry is live."""
        self.rows(tensor.shape)
        channels = tensor.reshape(self._split(tensor.shape))
        if tensor.dtype == torch.bool or self.norm in _POOLS:
            found = kernels.pool_blocks(channels, _POOLS.get(self.norm, "max"))
        else:
            found = self._sums_of_powers(channels)
        if tensor.dtype != torch.bool and self.norm not in (1, math.inf):
            found = found.pow_(1 / self.norm)
        return found.reshape(1, -1)

    def _sums_of_powers(self, channels: Tensor) -> Tensor:
        dim = 2 if self._dim else 0  # that holds the channels
        size = max(_SLAB * channels.shape[dim] // max(channels.numel(), 1), 1)
        slabs = channels.detach().split(size, dim)
        sums = [kernels.pool_blocks(slab.abs().double().pow_(self.norm)) for slab in slabs]
        return torch.cat(sums, min(dim, 1))

    def pool_magnitude(self, tensor: Tensor) -> Tensor:
        """Return `pool(tensor)`, because norms ignore signs."""
        return self.pool(tensor)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[1, channels]` in the weight's shape."""
        down, high, across, wide = self._split(shape)
        return kernels.expand_blocks(chosen.reshape(down, across), high, wide).reshape(shape)

    def _split(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """Return the weight's shape with the channels as one column or one row of blocks."""
        if self._dim == 0:
            return shape[0], 1, 1, shape[1:].numel()
        return 1, shape[0], shape[1], shape[2:].numel()

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's own channels; if they lie along dimension 1, a part of each channel."""
        self.rows(shape)
        return Share(self, [count]) if self._dim == 0 else Share(self, None, self.norm)

    def __repr__(self) -> str:
        order = "float('inf')" if self.norm == math.inf else repr(self.norm)
        return f"Channel(axis={self.axis}{'' if self.norm == 1 else f', norm={order}'})"
