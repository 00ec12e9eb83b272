"""Taps of compressed layers, which capture parts of the dense gradient in the backward pass."""

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
"""Tensors from one product of a backward pass, which give one term of the dense gradient."""


class CapturedTap(ArrivalTap):
    """Collect the pieces of the dense gradient that a layer captures in its backward passes.

    Args:
        values: live values of the weight.
        shape: shape of the dense weight.
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
        """Discard the pieces."""
        self._pieces: list[Piece] | None = None

    def free(self) -> None:
        """Free all pieces, including pieces of backward passes that accumulated no gradient."""
        super().free()
        self._passes: dict[int, list[Piece]] = {}

    def add(self, grad: Tensor) -> None:
        """Add the pieces of this backward pass; `torch.autograd.grad` may have left others."""
        self._pieces = (self._pieces or []) + self._passes.pop(backward_pass(), [])

    def take(self, grad: Tensor) -> None:
        """Do nothing: a gradient of the live values has no entries for pruned connections."""

    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Average the gradient later, when it is computed from the pieces."""
        self._group = group
        self._pieces = self._pieces or []
        return None

    def gradient(self) -> DenseGradient | None:
        """Return the gradient that the pieces add up to."""
        return None if self._pieces is None else self.combine(self._pieces, self._group)

    @abstractmethod
    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return the gradient that the pieces add up to, averaged over the ranks of a group."""


class SummedTap(CapturedTap):
    """Collect dense gradients of the weight, which the layer captures."""

    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return the sum of the gradients."""
        total = torch.zeros(self.shape, dtype=self.param.dtype, device=self.param.device)
        for (grad,) in pieces:
            total += grad
        if group is not None:
            average_(total, group).wait()
        return WholeGradient(total)


class FactoredTap(CapturedTap):
    """Collect the factors of a linear layer's gradient: x `[tokens, cols]` and dy `[tokens, rows]`.

    If the model uses the weight itself, a piece is the gradient of this use, `[rows, cols]`.
    """

    def combine(self, pieces: Sequence[Piece], group: ProcessGroup | None) -> DenseGradient:
        """Return the gradient in factored form: products `dyᵀ x` plus gradients of the weight."""
        factors = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2]
        dense = [piece[0] for piece in pieces if len(piece) == 1]
        return FactoredGradient(factors, self.shape, group, dense)


class FactoredGradient(DenseGradient, RowBlocks):
    """Dense gradient of a matrix in factored form: the sum of products `dyᵀ x` over batches.

    Args:
        factors: pairs of x `[tokens, cols]` and dy `[tokens, rows]`.
        shape: `[rows, cols]`.
        group: ranks over which the gradient is averaged, one block at a time.
        dense: tensors `[rows, cols]` to add.
    """

    # With 4096 columns, a block has 4 MB of float32 and stays in cache while it is scored.
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

        The factors are multiplied only if an upper bound, computed from their largest entries,
        overflows.
        """
        if all_true(self._bound() < torch.finfo(torch.float32).max, self.group, _CPU):
            return True
        # Each rank must multiply all blocks, because the other ranks wait to average them.
        finite = [sharded.all_finite(block) for _, block in self.row_blocks()]
        return all_true(all(finite), self.group, _CPU)

    def _bound(self) -> float:
        """Return an upper bound of all magnitudes; inf or NaN if a factor is not finite."""
        products = [len(x) * _largest(x) * _largest(dy) for x, dy in self.factors]
        # The factor 2 allows for rounding of sums in float32.
        return 2 * (sum(products) + sum(map(_largest, self._dense)))

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the gradient `[block, cols]` of each block of rows."""
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
        """Return this gradient itself, a matrix in blocks of rows."""
        return self


def _largest(tensor: Tensor) -> float:
    """Return the largest magnitude of an entry; NaN if any entry is NaN, 0 if there is no entry."""
    if not tensor.numel():
        return 0.0
    least, largest = tensor.aminmax()
    return max(-float(least), float(largest))
