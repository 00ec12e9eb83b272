"""Cost of one weight: memory between steps, mask updates and FLOPs of a training step.

`sparsewright plan` and `tools/cluster` add these numbers up. Facts about storages, layer kinds and
algorithms come from their classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sparsewright.algorithms import ALL
from sparsewright.base import SparsityAlgorithm
from sparsewright.storage.storage import Footprint

_HISTOGRAM_BITS = 11  # bits of each score that one round of a selection over shards looks at
HISTOGRAM_BYTES = 8 << _HISTOGRAM_BITS


@dataclass(frozen=True)
class Precision:
    """Dtypes of a weight, its gradient and its optimizer state, with or without float32 masters."""

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
    """Bytes that one weight occupies between steps.

    Attributes:
        weight: all entries, or only the live values; includes the shadow copy, if there is one.
        gradient: gradient of all entries, or of the live values.
        state: optimizer state, including float32 masters.
        mask: the mask, or the index of the live values.
    """

    weight: int
    gradient: int
    state: int
    mask: int

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return self.weight + self.gradient + self.state + self.mask


def held_bytes(
    footprint: Footprint, precision: Precision, states: int, *, is_frozen: bool = False
) -> HeldBytes:
    """Return the bytes that one weight occupies between steps.

    Args:
        footprint: the footprint that the weight's storage reports.
        precision: dtypes of weight, gradient and state.
        states: number of state values that the optimizer keeps for each trained value.
        is_frozen: True for a weight without a gradient, which has no optimizer state either.

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
    """The work that a mask update does for one weight.

    Attributes:
        choices: for each selection, the entries that it chooses from and their score; the format
            is that of `SparsityAlgorithm.selections`.
        needs_dense_gradient: True if the update reads the dense gradient.
    """

    choices: tuple[tuple[str, str], ...] = ()
    needs_dense_gradient: bool = False

    @classmethod
    def of(cls, algorithm: type[SparsityAlgorithm]) -> Method:
        """Return the work that an algorithm class does in a mask update."""
        return cls(algorithm.selections, algorithm.needs_dense_gradient)

    @property
    def has_random_score(self) -> bool:
        """Return whether a selection uses random scores (float32)."""
        return any(score == "random" for _, score in self.choices)

    @property
    def drops_and_grows(self) -> bool:
        """Return whether updates drop and grow connections instead of choosing a whole new mask."""
        return len(self.choices) > 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the sizes in bytes of the counts that shards sum, apart from the selections' own.

        The first count says whether the gradient is finite. Methods that need the dense gradient
        also count whether the dense gradient is finite. Methods that drop and grow also count the
        live connections to drop from. The last 24 bytes hold the numbers of dropped, grown and live
        connections.
        """
        if not self.choices:
            return ()
        return 8, *[8] * self.needs_dense_gradient, *[8] * self.drops_and_grows, 24

    @property
    def temporary_bytes(self) -> int:
        """Return the temporary bytes per entry during an update: masks, and a random score.

        An update that chooses a whole new mask needs one mask. Drop and grow need three.
        """
        masks = 3 if self.drops_and_grows else len(self.choices)
        return masks + 4 * self.has_random_score

    def selections(self, precision: Precision) -> list[tuple[str, torch.dtype]]:
        """Return for each selection the entries that it chooses from and its scores' dtype."""
        dtypes = {
            "weight": precision.weight,
            "gradient": precision.gradient,
            "random": torch.float32,
        }
        return [(among, dtypes[score]) for among, score in self.choices]


METHODS = {algorithm.name: Method.of(algorithm) for algorithm in ALL}


def selection_rounds(dtype: torch.dtype) -> int:
    """Return the number of histograms that find the k-th largest magnitude over shards."""
    return math.ceil(8 * dtype.itemsize / _HISTOGRAM_BITS)


def step_flops(
    forward: float, density: float, *, is_frozen: bool = False, needs_dense_gradient: bool = False
) -> float:
    """Return the FLOPs that one weight costs in a training step whose kernels skip zeros.

    A training step does three products as large as the forward pass, or two for a frozen weight.
    If the step needs the dense gradient, the product that computes it is dense.

    Args:
        forward: FLOPs of the dense forward pass.
        density: live fraction of the weight, 0..1; 1 for a weight that is multiplied in full.
        is_frozen: True if the weight has no gradient.
        needs_dense_gradient: True if this step computes the dense gradient.

    >>> step_flops(100, 0.25), step_flops(100, 0.25, needs_dense_gradient=True)
    (75.0, 150.0)
    """
    gradient = 0.0 if is_frozen else 1.0 if needs_dense_gradient else density
    return forward * (2 * density + gradient)
