"""The facts that a method can use to update the mask of one weight."""

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
        mask: the current mask; bool, shaped like the weight. Do not modify it.
        level: the level to reach, 0..1; a 0-d tensor, float64 if it was given as a number.
        step: number of completed optimizer steps.
        structure: the structure that the new mask must follow.
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
        """Return the weight in its dense shape; zero where `mask` is False unless shadowed."""
        if self._weight is None:
            self._weight = self._parameter.storage.weight()
        return self._weight

    def dense_gradient(self) -> DenseGradient:
        """Return this step's gradient before pruning, summed over micro-batches.

        Raises:
            AlgorithmError: the algorithm does not set `needs_dense_gradient`, or the mask has
                already changed.
        """
        if self._is_free:
            problem = "the mask has already changed; read the gradient before you return the mask"
            raise AlgorithmError(f"dense gradient of {self.name}", problem)
        if self._gradient is None:
            problem = "set needs_dense_gradient = True in the algorithm's class to collect it"
            raise AlgorithmError(f"dense gradient of {self.name}", problem)
        return self._gradient

    def gradient(self) -> Tensor:
        """Return the dense gradient as one tensor, shaped like the weight."""
        return self.dense_gradient().dense()

    def generator(self) -> torch.Generator:
        """Return a CPU generator for this weight and step, equal on every rank."""
        return make_generator(self._seed, self.name, self.step)

    def random(self) -> Tensor:
        """Return uniform random numbers in [0, 1), float32, shaped like the weight.

        If the weight is sharded, each rank gets its part of the same numbers.
        """
        return uniform(self.weight, self.generator())

    def free(self) -> None:
        """Free the weight and the gradient before the mask changes."""
        self._weight = self._gradient = None
        self._is_free = True
