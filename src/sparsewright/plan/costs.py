"""What one weight costs: bytes that it holds, what its mask update takes, FLOPs of its step.

Pure arithmetic, and the one source of these numbers: `sparsewright plan` and `tools/cluster` add
them up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_HISTOGRAM_BITS = 11  # of the scores' keys, in each round of a selection over shards
HISTOGRAM_BYTES = 8 << _HISTOGRAM_BITS


@dataclass(frozen=True)
class Precision:
    """Dtypes of weight, gradient and optimizer state, and whether there is a float32 master."""

    weight: torch.dtype
    gradient: torch.dtype
    state: torch.dtype
    master: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype) -> Precision:
        """Return the precision in which everything has one dtype."""
        return cls(dtype, dtype, dtype)


@dataclass(frozen=True)
class HeldBytes:
    """Bytes that a weight holds between steps.

    Attributes:
        weight: its entries, or its live values.
        gradient: one for each of them.
        state: of the optimizer, with float32 masters.
        mask: the mask, or the index of live values.
    """

    weight: int
    gradient: int
    state: int
    mask: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weight + self.gradient + self.state + self.mask


def held_bytes(
    entries: int, mask: int, precision: Precision, states: int, *, is_frozen: bool = False
) -> HeldBytes:
    """Return what a weight holds.

    Args:
        entries: numbers that are stored: all, or of a compressed weight the live ones.
        mask: bytes of its mask (one for each entry), or of its index (`index_bytes`).
        precision: dtypes.
        states: numbers that the optimizer keeps for each that it steps.
        is_frozen: whether it has no gradient, and so no state.

    >>> held_bytes(10, 10, Precision.of(torch.float32), states=2).total
    170
    """
    weight = entries * precision.weight.itemsize
    if is_frozen:
        return HeldBytes(weight, 0, 0, mask)
    gradient = entries * precision.gradient.itemsize
    state = entries * (states * precision.state.itemsize + 4 * precision.master)
    return HeldBytes(weight, gradient, state, mask)


def index_bytes(rows: int, cols: int, kept: int) -> int:
    """Return the bytes of a compressed weight's index: CSR, and the blocks of it and its transpose.

    Args:
        rows: outputs of the layer.
        cols: its inputs.
        kept: live connections.
    """
    density = kept / max(1, rows * cols)
    width = 160 if density > 0.15 else 192 if density > 0.07 else 256
    segments = 0
    for height, length in ((rows, cols), (cols, rows)):
        segments += height * math.ceil(length / min(width, max(1, length))) + 1
    return 4 * (rows + 1) + 4 * kept + 4 * segments + 2 * (2 + 4) * kept


@dataclass(frozen=True)
class Method:
    """What a mask update of one weight does.

    Attributes:
        among: the entries that each of its selections chooses from: `all`, `live`, `pruned`.
        counts: bytes of the counts that shards add up, beside those of its selections.
        has_random_score: whether connections grow by random numbers (float32).
        needs_dense_gradient: whether they grow by the dense gradient.
    """

    among: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    has_random_score: bool = False
    needs_dense_gradient: bool = False

    @property
    def drops_and_grows(self) -> bool:
        """Whether connections are dropped and others grown, instead of chosen anew."""
        return len(self.among) > 1

    @property
    def temporary_bytes(self) -> int:
        """Bytes for each entry while one weight is worked on: masks, and a random score.

        The new mask; those of drop and grow are three.
        """
        masks = 3 if self.drops_and_grows else len(self.among)
        return masks + 4 * self.has_random_score

    def selections(self, precision: Precision) -> list[tuple[str, torch.dtype]]:
        """Return among which entries each selection is, and its scores' dtype."""
        grown = torch.float32 if self.has_random_score else precision.gradient
        return list(zip(self.among, (precision.weight, grown), strict=False))


METHODS = {
    "static": Method(),
    "gmp": Method(("all",), (8, 24)),
    "set": Method(("live", "pruned"), (8, 8, 24), has_random_score=True),
    "rigl": Method(("live", "pruned"), (8, 8, 8, 24), needs_dense_gradient=True),
}


def selection_rounds(dtype: torch.dtype) -> int:
    """Return how many histograms a selection over shards takes to find the k-th magnitude."""
    return math.ceil(8 * dtype.itemsize / _HISTOGRAM_BITS)


def step_flops(
    forward: float, density: float, *, is_frozen: bool = False, needs_dense_gradient: bool = False
) -> float:
    """Return the FLOPs of a training step's products with a weight, if zeros are skipped.

    Three products as large as the forward pass; of a frozen weight two. Where an update needs the
    dense gradient, the product that gives it is dense.

    Args:
        forward: FLOPs of the dense forward pass.
        density: live share of the weight, 0..1; 1 for a weight that is multiplied whole.
        is_frozen: whether the weight has no gradient.
        needs_dense_gradient: whether it is an update step of such a method.

    >>> step_flops(100, 0.1), step_flops(100, 0.1, needs_dense_gradient=True)
    (30.0, 120.0)
    """
    gradient = 0.0 if is_frozen else 1.0 if needs_dense_gradient else density
    return forward * (2 * density + gradient)
