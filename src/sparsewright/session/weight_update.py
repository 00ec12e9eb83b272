"""All that a method may look at when it updates the mask of one weight."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewright.core.random_scores import uniform
from sparsewright.core.structure import Structure
from sparsewright.errors import AlgorithmError
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rng import make_generator
from sparsewright.taps.tap import DenseGradient


class WeightUpdate:
    """One weight at one update step.

    Attributes:
        name: full name of the weight.
        mask: bool, shaped like the weight: the mask so far; not to be written to.
        level: level to reach, 0..1; a 0-d tensor, float64 if it was given as a number.
        step: optimizer steps completed.
        structure: which entries stand or fall together.
    """

    def __init__(
        self,
        parameter: SparseParameter,
        level: Tensor,
        step: int,
        seed: int,
        structure: Structure,
        gradient: DenseGradient | None,
    ) -> None:
        self._parameter, self._seed, self._gradient = parameter, seed, gradient
        self.name, self.level, self.step, self.structure = parameter.name, level, step, structure
        self.mask = parameter.mask
        self._weight: Tensor | None = None
        self._is_free = False

    @property
    def weight(self) -> Tensor:
        """The weight, of its dense shape; zero where `mask` is False unless it is shadowed."""
        if self._weight is None:
            self._weight = self._parameter.storage.weight()
        return self._weight

    def dense_gradient(self) -> DenseGradient:
        """Return the gradient of this step before pruning, summed over micro-batches.

        Raises:
            AlgorithmError: the algorithm does not set `needs_dense_gradient`, or the mask has
                changed already.
        """
        if self._is_free:
            problem = "its mask has changed already; read it before the mask is given"
            raise AlgorithmError(f"dense gradient of {self.name}", problem)
        if self._gradient is None:
            problem = "to read it, set needs_dense_gradient = True in the class of the algorithm"
            raise AlgorithmError(f"dense gradient of {self.name}", problem)
        return self._gradient

    def gradient(self) -> Tensor:
        """Return `dense_gradient` as one tensor, shaped like the weight."""
        return self.dense_gradient().dense()

    def generator(self) -> torch.Generator:
        """Return a CPU generator for this weight at this step: the same on every rank."""
        return make_generator(self._seed, self.name, self.step)

    def random(self) -> Tensor:
        """Return uniform numbers in [0, 1), float32, shaped like the weight.

        Of a sharded weight each rank gets its own part of the same numbers.
        """
        return uniform(self.weight, self.generator())

    def free(self) -> None:
        """Free the weight and the gradient: its mask is about to change."""
        self._weight = self._gradient = None
        self._is_free = True
