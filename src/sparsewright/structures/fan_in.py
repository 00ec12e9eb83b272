"""Constant fan-in, which gives every output neuron the same number of live inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.counts import Level, num_kept
from sparsewright.core.filters import as_globs, matched
from sparsewright.core.rows import RowStructure, Unstructured
from sparsewright.core.selection import make_selection
from sparsewright.core.structure import RowBlocks, Share, Structure, check_same_shape
from sparsewright.errors import MissingOptionError, OptionError, OptionTypeError
from sparsewright.kernels import sharded
from sparsewright.structures.sides import check_side

_WHOLE = Unstructured()


class FanIn(RowStructure):
    """Keep the same number of inputs for each output neuron (each index of dimension 0).

    Without `ablate`, each row of n inputs keeps `num_kept(level, n)` of them, and drops and grows
    connections on its own. In a convolution, a row contains all kernel positions of its inputs.

    With `ablate`, each mask update also decides which neurons stay active. Let n be the number of
    inputs, N the number of entries, `budget = num_kept(level, N)` and k the number of live entries:

    1. K contains the `num_kept(drop_fraction, k)` live entries of the whole weight with the largest
       |w|. G contains as many entries as were dropped, those with the largest growth score among
       all N. (If k is above the budget, K and G together have at most `budget` entries.)
    2. A neuron's saliency is the number of entries of K or G in its row. Neurons with a saliency
       below `max(1, floor(ablate * n))` lose all their connections. To leave enough neurons for
       the budget, this bar is never above the saliency at place `budget // n` of the saliencies in
       descending order, counted from 0.
    3. Each active neuron gets `budget // active` connections: first the largest |w| of K in its
       row, then the largest growth scores.

    The average saliency is at most `budget / N` of the inputs, so choose `ablate` well below the
    density. Above it, only the neurons that the budget needs stay, almost dense.

    A later update can activate an ablated neuron again, if G has enough entries in its row.
    `topk` uses the same steps, with K the `budget` entries with the highest scores; if it ranks by
    |score|, entries with score 0 are not in K. Random and checkerboard initial masks ablate no
    neuron, unless there are fewer connections than neurons.

    Args:
        ablate: smallest fraction of a neuron's inputs that must be salient, 0..1; None: no neuron
            is ablated.
        exempt: globs that match the full names of weights without ablation, such as
            `"head.weight"`.

    Raises:
        MissingOptionError: `exempt` is given without `ablate`.
        OptionError: `ablate` is outside 0..1.
        OptionTypeError: an option has the wrong type.

    >>> score = torch.tensor([[1.0, 4.0, 3.0], [9.0, 8.0, 7.0], [1.0, 2.0, 5.0]])
    >>> FanIn().topk(score, 0.5)
    tensor([[False,  True, False],
            [ True, False, False],
            [False, False,  True]])
    >>> FanIn(ablate=0.5).topk(score, 0.5)
    tensor([[False, False, False],
            [ True,  True, False],
            [False,  True,  True]])

    Source: M. Lasby et al., "Dynamic sparse training with structured sparsity" (SRigL),
    arXiv:2305.02299.
    """

    name: ClassVar[str] = "fan_in"

    def __init__(self, ablate: float | None = None, exempt: str | Sequence[str] = ()) -> None:
        if ablate is not None:
            if isinstance(ablate, bool) or not isinstance(ablate, int | float):
                raise OptionTypeError("ablate", ablate, "a number between 0 and 1, or None")
            if not 0 <= ablate <= 1:
                raise OptionError("ablate", ablate, "a number between 0 and 1, or None")
        self.ablate, self.exempt = ablate, as_globs("exempt", exempt)
        if self.exempt and ablate is None:
            raise MissingOptionError(
                "ablate", "structure 'fan_in' with exempt", "a number between 0 and 1"
            )

    def for_weights(self, names: Sequence[str]) -> Mapping[str, Structure]:
        """Return the structure of each weight: weights that `exempt` matches have no ablation."""
        exempt = matched("exempt", self.exempt, names)
        plain = FanIn().with_dims(self.out_dim, self.in_dim)
        return {name: plain if name in exempt else self for name in names}

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return the number of output neurons and the number of inputs of each."""
        check_side(shape, "input", 1)
        dim = self.out_dim
        return shape[dim], math.prod([*shape[:dim], *shape[dim + 1 :]])

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `[outputs, inputs]`."""
        return tensor.movedim(self.out_dim, 0).reshape(self.rows(tensor.shape))

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[outputs, inputs]` in the weight's shape."""
        dim = self.out_dim
        rest = [*shape[:dim], *shape[dim + 1 :]]
        return chosen.reshape(shape[dim], *rest).movedim(0, dim).contiguous()

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's own neurons; if they lie along dimension 1, a part of each neuron."""
        rows, n = self.rows(shape)
        return Share(self, None if self.out_dim == 0 else [n * count // max(shape[0], 1)] * rows)

    def num_kept(self, shape: torch.Size, sparsity: Level) -> int | None:
        """Return the number of entries that a weight of this shape keeps at a level.

        With `ablate` it depends on the number of active neurons, and the result is None.
        """
        kept = super().num_kept(shape, sparsity)
        return kept if self.ablate is None else None

    def topk(self, score: Tensor, sparsity: Level, *, magnitude: bool = False) -> Tensor:
        """Keep the highest scores of each active neuron."""
        if self.ablate is None:
            return super().topk(score, sparsity, magnitude=magnitude)
        update = _Update(self, self.ablate, score, sparsity)
        among = update.whole.pool(score != 0) if magnitude else None
        salient = update.whole.select(score, update.budget, among, magnitude=magnitude)
        fan_in = update.fan_in(update.saliency(salient))
        return update.rows.expand(update.rows.select(score, fan_in, magnitude=magnitude))

    def sample(self, score: Tensor, sparsity: Level) -> Tensor:
        """Keep the highest scores of each neuron; ablate only if each would keep nothing."""
        if self.ablate is not None and not num_kept(sparsity, self.rows(score.shape)[1]):
            return self.topk(score, sparsity)
        return super().topk(score, sparsity)

    def drop(
        self, score: Tensor, mask: Tensor, drop_fraction: Level, *, magnitude: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Drop live entries of each neuron, or with `ablate` of the whole weight."""
        if self.ablate is None:
            return super().drop(score, mask, drop_fraction, magnitude=magnitude)
        new, _ = _WHOLE.drop(score, mask, drop_fraction, magnitude=magnitude)
        rows = make_selection(self, new)
        return new, rows.count(rows.pool(new)).to(mask.device)

    def grow(
        self,
        score: Tensor,
        mask: Tensor,
        sparsity: Level,
        *,
        live: Tensor | int | None = None,
        magnitude: bool = False,
    ) -> Tensor:
        """Fill each active neuron.

        With `ablate`, K is `mask`, G has the entries that are missing to the budget, and neurons
        with live entries always stay active.
        """
        if self.ablate is None:
            return super().grow(score, mask, sparsity, live=live, magnitude=magnitude)
        check_same_shape(score, mask)
        update = _Update(self, self.ablate, score, sparsity)
        rows, whole = update.rows, update.whole
        kept = whole.pool(mask)
        missing = (update.budget - whole.count(kept)).clamp(min=0)
        saliency = update.saliency(whole.select(score, missing, magnitude=magnitude) | kept)
        own = rows.pool(mask)
        counts = rows.count(own)
        fan_in = update.fan_in(torch.where(counts > 0, rows.n, saliency))
        grown = rows.select(score, (fan_in - counts).clamp(min=0), ~own, magnitude=magnitude)
        return rows.expand(grown.logical_or_(own))

    def drop_and_grow(
        self,
        weight: Tensor,
        mask: Tensor,
        sparsity: Level,
        drop_fraction: Level,
        grow_score: Tensor | RowBlocks,
    ) -> Tensor:
        """Drop and grow connections of each neuron, or with `ablate` follow the steps above."""
        if self.ablate is None:
            return super().drop_and_grow(weight, mask, sparsity, drop_fraction, grow_score)
        check_same_shape(weight, mask)
        score = grow_score if isinstance(grow_score, Tensor) else grow_score.dense()
        update = _Update(self, self.ablate, weight, sparsity)
        rows, whole, live = update.rows, update.whole, update.whole.pool(mask)
        num_live = int(whole.count(live))
        stay = num_kept(drop_fraction, num_live)
        num_grown = max(min(num_live - stay, update.budget - stay), 0)
        stay = min(stay, update.budget)
        kept = whole.select(weight, stay, live, magnitude=True)
        salient = whole.select(score, num_grown, magnitude=True).logical_or_(kept)
        fan_in = update.fan_in(update.saliency(salient))
        best = rows.select(weight, fan_in, rows.pool(whole.expand(kept)), magnitude=True)
        missing = fan_in - rows.count(best)
        return rows.expand(rows.select(score, missing, ~best, magnitude=True).logical_or_(best))

    def __repr__(self) -> str:
        options = [] if self.ablate is None else [f"ablate={self.ablate!r}"]
        options += [f"exempt={self.exempt!r}"] if self.exempt else []
        return f"FanIn({', '.join(options)})"


class _Update:
    """One selection with ablation.

    Attributes:
        rows: selects in each neuron.
        whole: selects in the whole weight.
        budget: number of entries that the level keeps in the whole weight.
    """

    def __init__(self, structure: FanIn, ablate: float, like: Tensor, sparsity: Level) -> None:
        self.rows, self.whole = make_selection(structure, like), make_selection(_WHOLE, like)
        self.budget = num_kept(sparsity, like.numel())
        self._bar = max(1, int(Decimal(str(ablate)) * self.rows.n))
        self._device = sharded.local(like).device

    def saliency(self, salient: Tensor) -> Tensor:
        """Return the number of salient entries of each neuron: int64 `[rows]` on the CPU."""
        return self.rows.count(self.rows.pool(self.whole.expand(salient)))

    def fan_in(self, saliency: Tensor) -> Tensor:
        """Return each neuron's number of connections, 0 if it is ablated.

        Ranks of a sharded weight exchange only the histogram of the saliencies.
        """
        n = self.rows.n
        histogram = torch.bincount(saliency, minlength=n + 1).to(self._device)
        found = sharded.sum_over(histogram, self.rows.group).cpu()
        at_least = found.flip(0).cumsum(0).flip(0)  # number of neurons with each saliency or more
        place = self.budget // max(n, 1)
        bar = min(self._bar, max(int((at_least > place).sum()) - 1, 0))
        each = self.budget // max(int(at_least[bar]), 1)
        return torch.where(saliency >= bar, each, 0)
