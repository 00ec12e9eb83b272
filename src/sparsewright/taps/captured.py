"""The tap of a compressed layer, whose backward pass hands over what it computes with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsewright.core.structure import RowBlocks
from sparsewright.kernels import sharded
from sparsewright.taps.arrival import ArrivalTap
from sparsewright.taps.tap import DenseGradient, WholeGradient, all_true, average_
from sparsewright.torch_private import backward_pass

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed import ProcessGroup

_CPU = torch.device("cpu")

Piece = tuple[Tensor, ...]
"""What one product of a backward pass adds to the dense gradient."""


class CapturedTap(ArrivalTap):
    """Collects the pieces of the dense gradient that a layer captures in its backward passes.

    Args:
        values: the live values of the weight.
        shape: of the weight.
    """

    def __init__(self, values: Tensor, shape: torch.Size) -> None:
        super().__init__(values)
        self.shape = shape
        self._group: ProcessGroup | None = None

    def capture(self, *piece: Tensor) -> None:
        """Keep one piece of the backward pass that is running."""
        kept = tuple(tensor.detach() for tensor in piece)
        self._passes.setdefault(backward_pass(), []).append(kept)

    def empty(self) -> None:
        """Forget the pieces."""
        self._pieces: list[Piece] | None = None

    def free(self) -> None:
        """Free the pieces, those of passes that were never accumulated too."""
        super().free()
        self._passes: dict[int, list[Piece]] = {}

    def add(self, grad: Tensor) -> None:
        """Add the pieces of this pass: `torch.autograd.grad` may have left those of another."""
        self._pieces = (self._pieces or []) + self._passes.pop(backward_pass(), [])

    def take(self, grad: Tensor) -> None:
        """Take nothing: a gradient of the live values has nothing outside of the mask."""

    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Have the gradient averaged when it is put together."""
        self._group = group
        self._pieces = self._pieces or []
        return None

    def gradient(self) -> DenseGradient | None:
        """Return the gradient that the pieces add up to."""
        return None if self._pieces is None else self.combine(self._pieces, self._group)

    @abstractmethod
    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return the gradient that pieces add up to, averaged over the ranks of a group."""


class SummedTap(CapturedTap):
    """Of a layer that captures dense gradients of its weight."""

    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return their sum."""
        total = torch.zeros(self.shape, dtype=self.param.dtype, device=self.param.device)
        for (grad,) in pieces:
            total += grad
        if group is not None:
            average_(total, group).wait()
        return WholeGradient(total)


class FactoredTap(CapturedTap):
    """Of a linear layer that captures x `[tokens, cols]` and dy `[tokens, rows]`.

    Where the weight itself is used, a piece is the gradient of it, `[rows, cols]`.
    """

    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return the sum of `dyᵀ x`, not multiplied out, and of gradients of the weight."""
        factors = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2]
        dense = [piece[0] for piece in pieces if len(piece) == 1]
        return FactoredGradient(factors, self.shape, group, dense)


class FactoredGradient(DenseGradient, RowBlocks):
    """The dense gradient of a matrix, `dyᵀ x` summed over batches, not multiplied out.

    Args:
        factors: pairs of x `[tokens, cols]` and dy `[tokens, rows]`.
        shape: `[rows, cols]`.
        group: ranks over which it is averaged, a block at a time.
        dense: tensors `[rows, cols]` to add.
    """

    # 4 MB of float32 at 4096 columns: a block stays in cache while it is scored.
    _BLOCK_ROWS = 256

    def __init__(
        self,
        factors: list[tuple[Tensor, Tensor]],
        shape: torch.Size,
        group: ProcessGroup | None = None,
        dense: Sequence[Tensor] = (),
    ) -> None:
        self.factors, self.shape, self.group, self._dense = factors, shape, group, dense

    def is_finite(self) -> bool:
        """Return whether every entry is finite, on every rank.

        Multiplied out only if the size of the factors leaves it open.
        """
        if all_true(self._bound() < torch.finfo(torch.float32).max, self.group, _CPU):
            return True
        # Each rank multiplies all blocks: others wait for it to average them.
        finite = [sharded.all_finite(block) for _, block in self.row_blocks()]
        return all_true(all(finite), self.group, _CPU)

    def _bound(self) -> float:
        """What no entry's size exceeds; inf or NaN if a factor is not finite."""
        products = [len(x) * _largest(x) * _largest(dy) for x, dy in self.factors]
        # Twice: sums in float32 are rounded.
        return 2 * (sum(products) + sum(map(_largest, self._dense)))

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the gradient `[block, cols]` of one block after the other."""
        for start in range(0, self.shape[0], self._BLOCK_ROWS):
            rows = slice(start, start + self._BLOCK_ROWS)
            height = len(range(*rows.indices(self.shape[0])))
            block = torch.zeros(height, self.shape[1], dtype=torch.float32, device="cpu")
            for x, dy in self.factors:
                block.addmm_(dy[:, rows].T.float(), x.float())
            for grad in self._dense:
                block += grad[rows]
            if self.group is not None:
                average_(block, self.group).wait()
            yield start, block

    def dense(self) -> Tensor:
        """Return the whole gradient, `[rows, cols]`."""
        none = torch.empty(0, self.shape[1], dtype=torch.float32, device="cpu")
        return torch.cat([none, *(block for _, block in self.row_blocks())])

    def score(self) -> Tensor | RowBlocks:
        """Return itself: a matrix in blocks of rows."""
        return self


def _largest(tensor: Tensor) -> float:
    """The largest size of an entry, NaN if there is one; 0 of an empty tensor."""
    if not tensor.numel():
        return 0.0
    least, largest = tensor.aminmax()
    return max(-float(least), float(largest))
