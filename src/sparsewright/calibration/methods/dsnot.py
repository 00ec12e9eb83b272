"""DSnoT, which swaps connections of a mask to bring each output closer to its mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.calibration.method import Layer, Method, Pruned
from sparsewright.calibration.methods.magnitude import Magnitude
from sparsewright.calibration.methods.ria import RIA
from sparsewright.calibration.methods.wanda import Wanda, wanda_score
from sparsewright.core.structure import Structure
from sparsewright.errors import IncompatibleOptionError, OptionError, OptionTypeError
from sparsewright.structures import NM, FanIn

_STARTS: tuple[type[Method], ...] = (Wanda, Magnitude, RIA)


class DSnoT(Method):
    """Start from the mask of another method, and swap connections without training.

    Let `c_ij = w_ij * s_j`, where `s_j` is the sum of feature j over the tokens of a sample, on
    average. The error of output i is `e_i = sum_j c_ij` over its pruned connections. Each round
    makes one swap in each output with `|e_i| >= threshold`:

    1. Of the pruned connections whose c has the sign of e, revive the one with the largest
       `|c_ij| / var(x_j)`.
    2. Of the live connections whose c has the other sign and that compete with the revived one,
       prune the one with the smallest Wanda score.

    A swap that would not reduce `|e_i|` is not made, and ends the search for this output. Weights
    do not change.

    Args:
        start: method of the first mask: `"wanda"`, `"magnitude"` or `"ria"`.
        rounds: largest number of swaps in an output, >= 0.
        threshold: error below which an output is good enough, >= 0.

    Source: Y. Zhang et al., "Dynamic sparse no training" (DSnoT), arXiv:2310.08915.
    """

    name: ClassVar[str] = "dsnot"
    paper: ClassVar[str] = "arXiv:2310.08915"
    structure: ClassVar[Structure | None] = FanIn()

    def __init__(self, start: str = "wanda", rounds: int = 50, threshold: float = 0.1) -> None:
        starts = {method.name: method for method in _STARTS}
        if start not in starts:
            raise OptionError("start", start, list(starts))
        if isinstance(rounds, bool) or not isinstance(rounds, int):
            raise OptionTypeError("rounds", rounds, "an integer >= 0")
        if rounds < 0:
            raise OptionError("rounds", rounds, "an integer >= 0")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise OptionTypeError("threshold", threshold, "a number >= 0")
        if not threshold >= 0:
            raise OptionError("threshold", threshold, "a number >= 0")
        self.start, self.rounds, self.threshold = starts[start](), rounds, threshold

    def check_structure(self, structure: Structure, shape: torch.Size) -> None:
        """Raise IncompatibleOptionError if connections of a structure cannot be swapped."""
        rows, n = structure.rows(shape)
        is_tiled = isinstance(structure, NM) and structure.transposable
        if rows * n != shape.numel() or is_tiled:
            raise IncompatibleOptionError(
                "structure", structure, "method='dsnot'", "swaps single connections of an output"
            )

    def prune(self, layer: Layer) -> Pruned:
        """Return the mask after the swaps."""
        mask, contests = self.start.prune(layer).mask, _contests(layer)
        inputs, score = layer.inputs, wanda_score(layer)
        change = layer.weight * (inputs.sums / max(inputs.samples, 1)).unsqueeze(1)
        gain = change.abs() / inputs.variances.unsqueeze(1)
        error = change.masked_fill(mask, 0).sum(-1)
        open_ = torch.ones_like(error, dtype=torch.bool)
        for _ in range(self.rounds):
            open_ &= error.abs() >= self.threshold
            side = change * error.sign().unsqueeze(-1)
            revived, found = _best(gain, ~mask & (side > 0))
            rivals = contests == contests.gather(-1, revived)
            pruned, found_too = _best(-score, mask & (side < 0) & rivals)
            new = error - change.gather(-1, revived)[..., 0] + change.gather(-1, pruned)[..., 0]
            open_ &= found & found_too & (new.abs() < error.abs())
            if not bool(open_.any()):
                break
            for place, is_live in ((revived, True), (pruned, False)):
                before = mask.gather(-1, place)
                now = torch.where(open_.unsqueeze(-1), torch.full_like(before, is_live), before)
                mask = mask.scatter(-1, place, now)
            error = torch.where(open_, new, error)
        return Pruned(mask)


def _best(score: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index of the highest score in each row, and whether there is a candidate."""
    place = score.masked_fill(~among, float("-inf")).argmax(-1, keepdim=True)
    return place, among.gather(-1, place)[..., 0]


def _contests(layer: Layer) -> Tensor:
    """Return the number of each entry's contest: `[groups, outputs, features]`."""
    assert layer.structure is not None
    found = []
    for part in layer.parts(layer.weight):
        rows, n = layer.structure.rows(part.shape)
        numbers = torch.arange(rows, device=part.device).unsqueeze(1).expand(rows, n)
        found.append(layer.structure.expand(numbers, part.shape))
    return layer.joined(found)
