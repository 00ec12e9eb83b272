"""Global magnitude pruning, which uses one threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.counts import Level, as_decimal, num_kept
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.core.rows import Unstructured
from sparsewright.distributions.budget import too_sparse
from sparsewright.errors import OptionError, ScoreError
from sparsewright.kernels import joint, sharded
from sparsewright.kernels.reference import NanError

_ORDERS = {"l2": 2, "mean": 1}
_EPSILON = 1e-8  # avoids division by 0 if all weights of a layer are 0


def global_magnitude(
    weights: Mapping[str, Tensor],
    sparsity: Level,
    *,
    normalize: str = "none",
    minimum: float = 0.0,
) -> dict[str, float]:
    """Return the levels that keep the `num_kept(sparsity, N)` largest |weight| of all layers.

    On ties, the weights of earlier layers are kept.

    Args:
        weights: `{name: weight}` of any shapes, with N entries in all. Weights can be sharded if
            all ranks call this function.
        sparsity: level of all layers together, 0..1.
        normalize: `"none"` compares |weight|. `"l2"` first divides it by the layer's L2 norm +
            1e-8, and `"mean"` by the layer's mean |weight| + 1e-8. Quotients are float32 (float64
            for float64 weights).
        minimum: fraction that every layer keeps at least, 0..1: `ceil(minimum * n)` of n entries.

    Returns:
        `{name: level}`; each layer keeps exactly `num_kept(level, n)` of its n entries.

    Raises:
        LevelError: `minimum` keeps more entries than `sparsity` allows.
        OptionError: `normalize` is unknown.
        ScoreError: a weight contains NaN.

    >>> global_magnitude({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([-2.0, 0.5])}, 0.25)
    {'a': 0.0, 'b': 0.5}
    """
    _check_options(normalize, minimum)
    return _levels(weights, sparsity, normalize, minimum, magnitude=True)


def _levels(
    scores: Mapping[str, Tensor],
    sparsity: Level,
    normalize: str,
    minimum: float,
    *,
    magnitude: bool,
) -> dict[str, float]:
    """Return the levels of `global_magnitude`; without `magnitude`, scores are ranked by value."""
    sizes = [score.numel() for score in scores.values()]
    least, left = _divide(sizes, sparsity, minimum)
    compared = [_normalized(score, normalize) for score in scores.values()]
    try:
        among = _beyond(compared, least, magnitude) if any(least) else None
        counts = joint.count_largest(compared, left, among, magnitude=magnitude)
    except (NanError, ScoreError):
        raise ScoreError(first_with_nan(scores)) from None
    kept = [first + more for first, more in zip(least, counts, strict=True)]
    return {
        name: (size - count) / max(size, 1)
        for name, size, count in zip(scores, sizes, kept, strict=True)
    }


def _divide(sizes: list[int], sparsity: Level, minimum: float) -> tuple[list[int], int]:
    """Return the number of entries that each layer keeps at least, and how many more are kept.

    Raises:
        LevelError: `minimum` keeps more entries than `sparsity` allows.
    """
    least = [size - num_kept(minimum, size) for size in sizes]
    left = num_kept(sparsity, sum(sizes)) - sum(least)
    if left < 0:
        reason = f"every layer keeps at least a fraction {minimum} of its entries"
        raise too_sparse(sparsity, sum(sizes) - sum(least), sum(sizes), reason)
    return least, left


def _check_options(normalize: str, minimum: float) -> None:
    if normalize not in ("none", *_ORDERS):
        raise OptionError("normalize", normalize, "'none', 'l2' or 'mean'")
    as_decimal(minimum, "minimum")


def _normalized(score: Tensor, normalize: str) -> Tensor:
    """Return scores, divided by a norm of their layer's scores if the option asks for it."""
    score = score.detach().abs() if score.is_complex() else score.detach()
    if normalize == "none":
        return score
    part = sharded.local(score)
    order = _ORDERS[normalize]
    total = torch.linalg.vector_norm(part, order, dtype=torch.float64) ** order
    total = sharded.sum_over(total, sharded.group_of(score))
    norm = total.sqrt() if normalize == "l2" else total / max(score.numel(), 1)
    divided = (part if part.dtype == torch.float64 else part.float()) / (float(norm) + _EPSILON)
    return sharded.from_local(divided, score) if sharded.is_sharded(score) else divided


def first_with_nan(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor that has NaN on any rank."""
    for name, tensor in tensors.items():
        has_nan = sharded.local(tensor).isnan().any().long()
        if int(sharded.sum_over(has_nan, sharded.group_of(tensor))):
            return name
    return "a normalized weight"


def _beyond(scores: list[Tensor], least: list[int], magnitude: bool) -> list[Tensor]:
    """Mark the entries of each layer that are not among its `least` largest; bool tensors."""
    levels = [1 - count / max(score.numel(), 1) for score, count in zip(scores, least, strict=True)]
    return [
        ~Unstructured().topk(score, level, magnitude=magnitude)
        for score, level in zip(scores, levels, strict=True)
    ]


@dataclass
class GlobalMagnitude(Distribution):
    """Use one threshold for all layers, as the function `global_magnitude` does.

    The threshold is for |weight|, and for the first masks of `init.from_scores` for its scores.
    """

    name: ClassVar[str] = "global"
    needs_weights: ClassVar[bool] = True
    has_exact_total: ClassVar[bool] = True

    normalize: str = "none"
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _check_options(self.normalize, self.minimum)

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer."""
        given = {name: statistics.score(name) for name in shapes}
        scores = {name: score for name, score in given.items() if score is not None}
        if len(scores) == len(shapes):
            return _levels(scores, level, self.normalize, self.minimum, magnitude=False)
        weights = {name: statistics.weight(name) for name in shapes}
        return _levels(weights, level, self.normalize, self.minimum, magnitude=True)

    def check(self, shapes: Mapping[str, torch.Size], level: Level) -> None:
        """Raise LevelError if `minimum` keeps more entries than a level allows."""
        _divide([shape.numel() for shape in shapes.values()], level, self.minimum)
