"""SparseGPT, which prunes column by column and corrects the remaining weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.calibration.hessian import inverse_factor
from sparsewright.calibration.method import Layer, Method, Pruned
from sparsewright.core.counts import num_kept
from sparsewright.core.structure import Structure
from sparsewright.errors import OptionError, OptionTypeError, ScoreError, ShapeError
from sparsewright.structures import NM

Choose = Callable[[Tensor, Tensor], Tensor]
"""A function `(scores, columns) -> mask`: scores `[groups, outputs, n]` of these n columns."""


class SparseGPT(Method):
    """Prune the weights whose loss can be compensated best, and compensate it.

    The inputs x of a layer define `H = sum x x^T`, plus `damping` times the mean of its diagonal.
    With U the upper Cholesky factor of the inverse of H, columns are processed from left to right:
    pruning `w_ij` subtracts `w_ij / U_jj * U_jk` from the weights `w_ik` of all later columns k,
    which is the best correction of the output for all inputs together.

    - By default the mask is chosen for `block` columns at a time, from the corrected weights: of
      the scores `w_ij**2 / U_jj**2` of all outputs in these columns, the highest stay.
    - With an N:M structure, each group is chosen when its first column is reached.
    - With any other structure, the mask is chosen first, by `w_ij**2 / [H^-1]_jj`.

    Features that are always 0 lose their weights.

    Args:
        block: number of columns to choose at a time, >= 1; for N:M a multiple of m.
        damping: share of the mean of H's diagonal that is added to the diagonal, > 0. If H is not
            positive definite, ten times more is added, and a warning is logged.

    Source: E. Frantar, D. Alistarh, "SparseGPT: massive language models can be accurately pruned
    in one-shot", arXiv:2301.00774.
    """

    name: ClassVar[str] = "sparsegpt"
    paper: ClassVar[str] = "arXiv:2301.00774"
    needs_products: ClassVar[bool] = True
    structure: ClassVar[Structure | None] = None

    def __init__(self, block: int = 128, damping: float = 0.01) -> None:
        if isinstance(block, bool) or not isinstance(block, int):
            raise OptionTypeError("block", block, "an integer >= 1")
        if block < 1:
            raise OptionError("block", block, "an integer >= 1")
        if isinstance(damping, bool) or not isinstance(damping, int | float):
            raise OptionTypeError("damping", damping, "a number > 0")
        if not 0 < damping < float("inf"):
            raise OptionError("damping", damping, "a number > 0")
        self.block, self.damping = block, damping

    def check_structure(self, structure: Structure, shape: torch.Size) -> None:
        """Raise ShapeError if blocks of columns would cut groups of N:M."""
        if isinstance(structure, NM) and self.block % structure.m:
            problem = f"block = {self.block} is not divisible by m = {structure.m}"
            raise ShapeError("a weight", shape, problem)

    def prune(self, layer: Layer) -> Pruned:
        """Return the mask and the corrected weights."""
        factor = inverse_factor(layer, self.damping)
        weight, structure = without_dead(layer), layer.structure
        if structure is None:
            return update_columns(weight, factor, self.block, self.block, tiles(layer))
        if isinstance(structure, NM) and not structure.transposable:
            return update_columns(weight, factor, self.block, structure.m, groups(structure.n))
        obs = weight.square() / factor.square().sum(1).unsqueeze(1)
        return reconstruct(layer, layer.select(obs), self.damping, factor)


def tiles(layer: Layer) -> Choose:
    """Return a choice that lets all entries of some columns compete, at the layer's level."""

    def choose(scores: Tensor, columns: Tensor) -> Tensor:
        rows = scores.flatten(1)
        kept = num_kept(layer.level, rows.shape[1])
        return _select(rows, kept).reshape(scores.shape)

    return choose


def groups(n: int) -> Choose:
    """Return a choice that keeps n entries of each output."""

    def choose(scores: Tensor, columns: Tensor) -> Tensor:
        return _select(scores.flatten(0, 1), n).reshape(scores.shape)

    return choose


def _select(rows: Tensor, kept: int) -> Tensor:
    """Mark the highest scores of each row."""
    try:
        return kernels.select(rows.contiguous(), kept)
    except kernels.NanError:
        raise ScoreError from None


def without_dead(layer: Layer) -> Tensor:
    """Return a copy of the weight that is 0 at features that are always 0."""
    return layer.weight.masked_fill((layer.inputs.squares == 0).unsqueeze(1), 0)


def reconstruct(layer: Layer, mask: Tensor, damping: float, factor: Tensor | None = None) -> Pruned:
    """Return a given mask, with the live weights corrected as SparseGPT does.

    Args:
        layer: the layer, whose statistics have products.
        mask: bool `[groups, outputs, features]`.
        damping: as for `SparseGPT`.
        factor: result of `inverse_factor`, if it is known.
    """
    factor = inverse_factor(layer, damping) if factor is None else factor

    def choose(scores: Tensor, columns: Tensor) -> Tensor:
        return mask[:, :, columns]

    return update_columns(without_dead(layer), factor, 128, 128, choose)


def update_columns(weight: Tensor, factor: Tensor, block: int, step: int, choose: Choose) -> Pruned:
    """Prune column by column, and correct the later columns after each one.

    Args:
        weight: `[groups, outputs, features]`; changed in place.
        factor: upper triangular `[groups, features, features]`.
        block: number of columns after which all later columns are corrected together.
        step: number of columns for which the mask is chosen at a time; divides `block`.
        choose: returns the mask of some columns.
    """
    mask = torch.ones_like(weight, dtype=torch.bool)
    diagonal = factor.diagonal(dim1=1, dim2=2)
    every = torch.arange(weight.shape[2], device=weight.device)
    for columns in every.split(block):
        first, end = int(columns[0]), int(columns[-1]) + 1
        errors = torch.zeros_like(weight[:, :, first:end])
        for j in range(first, end):
            if (j - first) % step == 0:
                part = slice(j, min(j + step, end))
                scores = (weight[:, :, part] / diagonal[:, None, part]).square()
                mask[:, :, part] = choose(scores, every[part])
            lost = (weight[:, :, j] / diagonal[:, None, j]).masked_fill(mask[:, :, j], 0)
            weight[:, :, j:end] -= lost.unsqueeze(2) * factor[:, None, j, j:end]
            errors[:, :, j - first] = lost
        weight[:, :, end:] -= errors @ factor[:, first:end, end:]
    return Pruned(mask, weight.masked_fill_(~mask, 0))
