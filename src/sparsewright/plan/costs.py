"""What one weight costs: bytes that it holds, what its mask update takes, FLOPs of its step.

Pure arithmetic: `sparsewright plan` and `tools/cluster` add these numbers up. What a storage, a
kind of layer and an algorithm have to say of themselves they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sparsewright.algorithms import ALL
from sparsewright.base import SparsityAlgorithm
from sparsewright.storage.storage import Footprint

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
        weight: its entries, or its live values; a shadow included.
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
    footprint: Footprint, precision: Precision, states: int, *, is_frozen: bool = False
) -> HeldBytes:
    """Return what a weight holds.

    Args:
        footprint: what its storage says that it takes.
        precision: dtypes.
        states: numbers that the optimizer keeps for each that it steps.
        is_frozen: whether it has no gradient, and so no state.

    >>> held_bytes(Footprint(10, 10), Precision.of(torch.float32), states=2).total
    170
    """
    entries, mask = footprint.entries, footprint.mask_bytes
    weight = (entries + footprint.shadow) * precision.weight.itemsize
    if is_frozen:
        return HeldBytes(weight, 0, 0, mask)
    gradient = entries * precision.gradient.itemsize
    state = entries * (states * precision.state.itemsize + 4 * precision.master)
    return HeldBytes(weight, gradient, state, mask)


@dataclass(frozen=True)
class Method:
    """What a mask update of one weight does.

    Attributes:
        choices: the entries that each of its selections chooses from, and their score, as
            `SparsityAlgorithm.selections`.
        needs_dense_gradient: whether it reads the dense gradient.
    """

    choices: tuple[tuple[str, str], ...] = ()
    needs_dense_gradient: bool = False

    @classmethod
    def of(cls, algorithm: type[SparsityAlgorithm]) -> Method:
        """Return what the mask updates of a class of algorithms do."""
        return cls(algorithm.selections, algorithm.needs_dense_gradient)

    @property
    def has_random_score(self) -> bool:
        """Whether connections are chosen by random numbers (float32)."""
        return any(score == "random" for _, score in self.choices)

    @property
    def drops_and_grows(self) -> bool:
        """Whether connections are dropped and others grown, instead of chosen anew."""
        return len(self.choices) > 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Bytes of the counts that shards add up, beside those of its selections.

        Whether the gradient, and the dense one, is finite; the live connections to drop from; what
        was dropped, what was grown, and what is live.
        """
        if not self.choices:
            return ()
        return 8, *[8] * self.needs_dense_gradient, *[8] * self.drops_and_grows, 24

    @property
    def temporary_bytes(self) -> int:
        """Bytes for each entry while one weight is worked on: masks, and a random score.

        The new mask; those of drop and grow are three.
        """
        masks = 3 if self.drops_and_grows else len(self.choices)
        return masks + 4 * self.has_random_score

    def selections(self, precision: Precision) -> list[tuple[str, torch.dtype]]:
        """Return among which entries each selection is, and its scores' dtype."""
        dtypes = {
            "weight": precision.weight,
            "gradient": precision.gradient,
            "random": torch.float32,
        }
        return [(among, dtypes[score]) for among, score in self.choices]


METHODS = {algorithm.name: Method.of(algorithm) for algorithm in ALL}


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

    >>> step_flops(100, 0.25), step_flops(100, 0.25, needs_dense_gradient=True)
    (75.0, 150.0)
    """
    gradient = 0.0 if is_frozen else 1.0 if needs_dense_gradient else density
    return forward * (2 * density + gradient)
