"""Mask initializers, which choose the live connections before the first step.

Each is called as `init_method(p, sparsity, score_shaper=None, device=None)` and returns a bool mask
of `p`'s shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.masks import make_mask_topk_sparsity
from sparsewright.core.random_scores import uniform
from sparsewright.core.rows import as_structure
from sparsewright.core.structure import ScoreShaper
from sparsewright.errors import MissingOptionError, OptionError, OptionTypeError
from sparsewright.kernels import sharded
from sparsewright.wording import close_names

__all__ = [
    "InitMethod",
    "checkerboard",
    "from_scores",
    "from_zeros",
    "make_init_method",
    "random",
    "topk",
]

InitMethod = Callable[..., Tensor]
"""A function `(p, sparsity, score_shaper=None, device=None) -> bool mask`.

If it has a parameter `generator` or `name`, it also receives a random generator for the weight, or
the weight's full name.
"""


def random(
    p: Tensor,
    sparsity: Level,
    score_shaper: ScoreShaper | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keep connections at random: exactly `num_kept(sparsity, n)` in each row of n entries.

    Args:
        p: the weight, any shape.
        sparsity: sparsity level, 0..1.
        score_shaper: structure or shaper that arranges the entries into rows; the entries of a row
            compete. None: all entries form one row.
        device: device of the mask; None: p's device.
        generator: CPU generator; None: the global one. Numbers are drawn on the CPU, so the mask
            does not depend on the device.

    Returns:
        Bool mask with p's shape.
    """
    return as_structure(score_shaper).sample(uniform(p, generator, device), sparsity)


def topk(
    p: Tensor,
    sparsity: Level,
    score_shaper: ScoreShaper | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Keep the connections with the largest magnitude.

    Args:
        p: the weight, any shape, without NaN.
        sparsity: sparsity level, 0..1.
        score_shaper: structure or shaper that arranges the entries into rows; the entries of a row
            compete. None: all entries form one row.
        device: device of the mask; None: p's device.

    Returns:
        Bool mask with p's shape.

    Raises:
        ScoreError: the weight contains NaN.

    >>> topk(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), 0.5)
    tensor([[False,  True],
            [ True, False]])
    """
    score = p.detach().to(device or p.device)
    return make_mask_topk_sparsity(score, sparsity, score_shaper, magnitude=True)


def from_zeros(
    p: Tensor,
    sparsity: Level,
    score_shaper: ScoreShaper | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Keep the connections with a nonzero weight, regardless of the level.

    Args:
        p: the weight, any shape.
        sparsity: not used.
        score_shaper: not used.
        device: device of the mask; None: p's device.

    Returns:
        Bool mask `p != 0`.
    """
    return (p.detach() != 0).to(device or p.device)


def checkerboard(
    p: Tensor,
    sparsity: Level,
    score_shaper: ScoreShaper | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Keep evenly spaced connections, without randomness.

    Let `d = 1 - sparsity`, and let `j` be a position's last index minus its other indices. The
    position is kept where `(j + 1) * d mod 1 < d`, in exact arithmetic. If this rule misses the
    exact count, the positions with the smallest remainder are kept, lower flat index first.

    Args:
        p: the weight, any number of dimensions.
        sparsity: sparsity level, 0..1.
        score_shaper: structure or shaper that arranges the entries into rows; the entries of a row
            compete. None: all entries form one row.
        device: device of the mask; None: p's device.

    Returns:
        Bool mask with p's shape, with exactly `num_kept(sparsity, n)` live connections in each row
        of n entries.

    >>> checkerboard(torch.ones(2, 4), 0.5).int()
    tensor([[0, 1, 0, 1],
            [1, 0, 1, 0]], dtype=torch.int32)
    """
    density = Fraction(1 - as_decimal(sparsity)).limit_denominator(10**9)
    first = sharded.shards_of(p).first if sharded.is_sharded(p) else 0
    phase = torch.ones(sharded.local(p).shape, dtype=torch.int64, device="cpu")
    for dim, size in enumerate(phase.shape):
        begin = 0 if dim else first
        index = torch.arange(begin, begin + size, device="cpu")
        index = index.reshape([-1] + [1] * (p.ndim - 1 - dim))
        phase += index if dim == p.ndim - 1 else -index
    remainder = (phase * density.numerator) % density.denominator
    # Remainders are integers below 1e9, so float64 holds them exactly.
    score = -remainder.double().to(device or p.device)
    if sharded.is_sharded(p):
        score = sharded.from_local(score, p)
    return as_structure(score_shaper).sample(score, sparsity)


class _FromScores:
    """Keep the connections with the highest of given scores."""

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        self.scores = scores

    def of(self, name: str, p: Tensor) -> Tensor:
        """Return the scores of a weight, sharded like it.

        Args:
            name: full name of the weight.
            p: the weight.

        Raises:
            MissingOptionError: there are no scores for this name.
            OptionError: the scores have another shape than the weight.
        """
        if name not in self.scores:
            near = ", ".join(map(repr, close_names(name, self.scores, 3)))
            advice = "Score the module that you pass to apply, with a param_filter that picks it."
            similar = f"; similar names: {near}" if near else ""
            raise MissingOptionError(f"scores for {name!r}{similar}", "from_scores", advice=advice)
        score = self.scores[name].detach()
        if score.shape != p.shape:
            allowed = f"of the weight's shape {tuple(p.shape)}"
            raise OptionError(f"scores[{name!r}]", score, allowed)
        return sharded.placed_like(sharded.shard_like(score, p), p)

    def __call__(
        self,
        p: Tensor,
        sparsity: Level,
        score_shaper: ScoreShaper | None = None,
        device: torch.device | str | None = None,
        name: str = "",
    ) -> Tensor:
        """Return the mask of a weight, as the other functions of this module do."""
        score, structure = self.of(name, p), as_structure(score_shaper)
        if not sharded.is_sharded(score):
            score = score.to(device or p.device)
        rows, units = structure.rows(p.shape)
        if rows * units != p.numel():
            score = _without_signs(score)
        return structure.topk(score, sparsity)

    def __repr__(self) -> str:
        return f"from_scores(<scores of {len(self.scores)} weights>)"


def _without_signs(score: Tensor) -> Tensor:
    """Return scores, raised by a constant if some are negative, so that none is below 0.

    Some structures rank a unit by a norm of its scores, which ignores their signs.
    """
    part = sharded.local(score)
    lowest = part.min().double() if part.numel() else part.new_zeros((), dtype=torch.float64)
    offset = sharded.min_over(lowest, sharded.group_of(score))
    return score.double() - offset if offset < 0 else score


def from_scores(scores: Mapping[str, Tensor]) -> InitMethod:
    """Return an initializer that keeps the connections with the highest of given scores.

    With `distribution="global"`, the scores of all weights compete, and the total number of
    connections is exact. Other distributions set the level of each weight, and its own scores
    compete. Algorithms use the scores for the first masks only.

    Args:
        scores: `{full name of the weight: scores of its shape}`, floating point, the higher the
            better; as from `sparsewright.calibration`. Names that no sparse weight has are
            ignored.

    Raises:
        OptionTypeError: `scores` is not a mapping from names to floating-point tensors.

    >>> keep = from_scores({"fc.weight": torch.tensor([[1.0, -4.0], [3.0, 2.0]])})
    >>> keep(torch.zeros(2, 2), 0.5, name="fc.weight")
    tensor([[False, False],
            [ True,  True]])
    """
    allowed = "a mapping from full names of weights to floating-point tensors"
    if not isinstance(scores, Mapping):
        raise OptionTypeError("scores", scores, allowed)
    for name, score in scores.items():
        if not isinstance(name, str):
            raise OptionTypeError("a name in scores", name, "the full name of a weight")
        if not isinstance(score, Tensor) or not score.is_floating_point():
            raise OptionTypeError(f"scores[{name!r}]", score, "a floating-point tensor")
    return _FromScores(dict(scores))


_METHODS: dict[str, InitMethod] = {
    "random": random,
    "topk": topk,
    "from_zeros": from_zeros,
    "checkerboard": checkerboard,
}


def make_init_method(init_method: str | InitMethod) -> InitMethod:
    """Return the initializer with a given name, or the given function unchanged.

    Args:
        init_method: `"random"`, `"topk"`, `"from_zeros"`, `"checkerboard"`, or a function
            `(p, sparsity, score_shaper=None, device=None) -> bool mask`, such as `from_scores`
            returns. The function needs no annotations and may leave out the keyword arguments.

    Raises:
        OptionError: no initializer has this name.
        OptionTypeError: the argument is neither a name nor a function.
    """
    if isinstance(init_method, str):
        if init_method.lower() not in _METHODS:
            raise OptionError("init_method", init_method, list(_METHODS))
        return _METHODS[init_method.lower()]
    if not callable(init_method):
        raise OptionTypeError(
            "init_method", init_method, f"a function or one of {', '.join(_METHODS)}"
        )
    return init_method


def name_of_init_method(init_method: InitMethod) -> str | InitMethod:
    """Return an initializer's name in `make_init_method`, or the function if it has no name."""
    return next((name for name, fn in _METHODS.items() if fn is init_method), init_method)


def reads_weights(init_method: InitMethod) -> bool:
    """Return whether an initializer reads the weight's values."""
    is_given = isinstance(init_method, _FromScores)
    return not is_given and init_method not in (random, checkerboard)


def score_of(init_method: InitMethod, name: str, weight: Tensor) -> Tensor | None:
    """Return the scores by which the first mask of a weight competes with those of other weights.

    Args:
        init_method: the initializer.
        name: full name of the weight.
        weight: the weight, any shape.

    Returns:
        The scores of `from_scores`; None for every other initializer, which ranks by |weight|.
    """
    if isinstance(init_method, _FromScores):
        return init_method.of(name, weight)
    return None


def call_init_method(
    init_method: InitMethod, p: Tensor, sparsity: Level, **keywords: Any
) -> Tensor:
    """Call an initializer with the keyword arguments that its signature accepts."""
    parameters = inspect.signature(init_method).parameters
    if not any(taken.kind is taken.VAR_KEYWORD for taken in parameters.values()):
        keywords = {name: value for name, value in keywords.items() if name in parameters}
    return init_method(p, sparsity, **keywords)
