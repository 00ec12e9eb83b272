"""Selection by LAMP scores over several tensors at once, which can be sharded.

The LAMP score of an entry is its square divided by the sum of the squares of its tensor that are
not smaller, ties in a fixed order. Within a tensor, scores have the order of |entry|, so only the
count of each tensor has to be found, by histograms of the squares. Sorting the tensors takes 3
times as long (eight tensors of 500,000 float32 entries, one thread), and needs whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewright import kernels
from sparsewright.kernels import native, reference, sharded
from sparsewright.kernels.reference import LIMB, MANTISSA, NanError

_DIGITS = ((52, 11), (41, 11), (30, 11), (19, 11), (8, 11), (0, 8))  # shift and width in bits
_NAN = 2047  # exponent of NaN; infinity has it too, but clamping removes infinities
_SLACK = 1e-12  # relative; bounds the rounding errors of sums over 100,000 bins
_HALVINGS = 12  # of a bracket in each round, which finds 11 more bits of the squares
_EVERY_SCORE = 0, 1 << 62  # the bits of 0.0 and 2.0


def count_largest_tail_scores(tensors: Sequence[Tensor], num: int) -> list[int]:
    """Count the entries of each tensor that are among the `num` largest LAMP scores of all.

    Sums are float64. On ties, the entries of earlier tensors count. Zeros have the score 0. The
    squares of each histogram bin are summed as integers, so the counts do not depend on the order
    of entries, the device or the sharding. Ranks exchange only histograms; every rank must call
    this function and gets the same counts.

    Args:
        tensors: floating point or complex, any shapes. Magnitudes above 2**500, such as infinity,
            count as 2**500, and magnitudes below 2**-511 count as 0.
        num: number of entries to count; all entries count if there are fewer.

    Raises:
        NanError: an entry is NaN.

    >>> count_largest_tail_scores([torch.tensor([4.0, 3.0]), torch.tensor([0.2, 0.1])], 3)
    [2, 1]
    """
    layers = [_Layer(tensor) for tensor in tensors]
    wanted, zeros, bracket = 0, [0] * len(layers), _EVERY_SCORE
    for place, (shift, width) in enumerate(_DIGITS):
        tables = _sum_tables(layers, shift, width)
        if not place:
            zeros = _take_zeros(tables)
            wanted = min(num, sum(int(table[0].sum()) for table in tables))
        if not wanted:
            break
        for layer, table in zip(layers, tables, strict=True):
            layer.split(table, shift, width)
        bracket = _narrow(layers, wanted, bracket)
        wanted -= sum(layer.decide(*map(_float_of, bracket)) for layer in layers)
        if all(bool((layer.bins.count == 1).all()) for layer in layers):
            break
        for layer in layers:
            layer.forget(shift)
    more = _count_ties(layers, wanted) if wanted else [0] * len(layers)
    counts = [layer.kept + ties for layer, ties in zip(layers, more, strict=True)]
    left = num - sum(counts)
    for place, zero in enumerate(zeros):
        counts[place] += min(zero, left)
        left -= min(zero, left)
    return counts


def _take_zeros(tables: list[Tensor]) -> list[int]:
    """Return the number of zeros of each layer, and remove them from the first tables.

    Raises:
        NanError: an entry is NaN.
    """
    if any(int(table[0, 0, _NAN]) for table in tables):
        raise NanError("an entry is NaN")
    zeros = [int(table[0, 0, 0]) for table in tables]
    for table in tables:
        table[:, 0, 0] = 0
    return zeros


@dataclass
class _Bins:
    """Bins of one tensor's squares that are not empty, in descending order.

    Attributes:
        prefix: leading bits of the squares, int64.
        count: number of entries.
        low: lower bound of the squares.
        high: upper bound of the squares.
        before: sum of the squares in all earlier bins.
        through: `before`, plus the sum of the squares in this bin.
    """

    prefix: Tensor
    count: Tensor
    low: Tensor
    high: Tensor
    before: Tensor
    through: Tensor

    def part(self, first: int, last: int) -> _Bins:
        """Return the bins `first..last - 1`."""
        return _Bins(*(value[first:last] for value in vars(self).values()))


def _no_bins() -> _Bins:
    empty = torch.zeros(0, dtype=torch.float64, device="cpu")
    return _Bins(empty.long(), empty, empty, empty, empty, empty)


@dataclass
class _Layer:
    """One tensor: its entries on this rank, and what is known about its scores.

    Attributes:
        tensor: the tensor.
        kept: number of entries that are surely counted, over all ranks.
        above: sum of their squares.
        bins: bins that hold all other entries that may be counted.
    """

    tensor: Tensor
    kept: int = 0
    above: float = 0.0
    bins: _Bins = field(default_factory=_no_bins)

    def __post_init__(self) -> None:
        part = sharded.local(self.tensor).detach().reshape(-1)
        self._part = part.abs() if part.is_complex() else part  # the undecided entries
        reason = native.why_not(self._part)
        self._kernels: ModuleType = reference if reason else native
        if reason:
            native.note_fallback("tabulate_squares", reason)
        self.group: dist.ProcessGroup | None = sharded.group_of(self.tensor)
        self.prefixes = torch.zeros(1, dtype=torch.int64, device=self._part.device)

    def table(self, shift: int, width: int) -> Tensor:
        """Return this rank's histogram of the bits `shift..shift + width - 1` of the squares."""
        table: Tensor = self._kernels.tabulate_squares(self._part, self.prefixes, shift, width)
        return table

    def split(self, table: Tensor, shift: int, width: int) -> None:
        """Split the undecided bins by the next bits, given the table summed over ranks."""
        parents = self.prefixes.cpu()[:, None] << width
        prefix = (parents + torch.arange(1 << width, device="cpu")).reshape(-1)
        count, upper, lower = table.reshape(3, -1)
        found = count.nonzero()[:, 0].flip(0)
        prefix, count, low = prefix[found], count[found].double(), prefix[found] << shift
        scale = ((low >> MANTISSA) << MANTISSA).view(torch.float64) * 2.0**-MANTISSA
        # Parts of one sum can be carried differently; add them as integers.
        upper, lower = upper[found] + (lower[found] >> LIMB), lower[found] & ((1 << LIMB) - 1)
        size = (upper.double() * 2.0**LIMB + lower.double()) * scale
        high = (low + ((1 << shift) - 1)).view(torch.float64)
        low = low.view(torch.float64)
        single = count == 1  # the sum is the square itself
        low, high = torch.where(single, size, low), torch.where(single, size, high)
        through = self.above + size.cumsum(0)
        start = torch.full((1,), self.above, dtype=torch.float64, device="cpu")
        before = torch.cat([start, through])[:-1]
        self.bins = _Bins(prefix, count, low, high, before, through)

    def decide(self, low: float, high: float) -> int:
        """Count the bins with scores above `high`, and drop those with scores below `low`.

        Returns:
            The number of entries counted now.
        """
        bins = self.bins
        first = int((bins.low / bins.through > high * (1 + _SLACK)).sum())
        last = int((_first_score(bins) >= low * (1 - _SLACK)).sum())
        if first:
            self.above = float(bins.through[first - 1])
        self.bins = bins.part(first, last)
        counted = int(bins.count[:first].sum())
        self.kept += counted
        return counted

    def forget(self, shift: int) -> None:
        """Keep only the undecided entries for the next round."""
        self.prefixes = self.bins.prefix.flip(0).to(self._part.device)
        if not len(self.prefixes):
            self._part = self._part[:0]
            return
        # The undecided bins are neighbors, because scores have the order of the squares.
        low, high = int(self.prefixes[0]) << shift, (int(self.prefixes[-1]) + 1 << shift) - 1
        self._part = self._kernels.gather_squares(self._part, low, high)


def _sum_tables(layers: list[_Layer], shift: int, width: int) -> list[Tensor]:
    """Return each layer's table, summed over ranks, on the CPU."""
    tables = [layer.table(shift, width) for layer in layers]
    found = list(tables)
    for group in dict.fromkeys(layer.group for layer in layers):
        places = [place for place, layer in enumerate(layers) if layer.group is group]
        if group is None:
            for place in places:
                found[place] = tables[place].cpu()
            continue
        sums = sharded.sum_over(torch.cat([tables[place].reshape(-1) for place in places]), group)
        parts = sums.cpu().split([tables[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part.view(tables[place].shape)
    return found


def _first_score(bins: _Bins) -> Tensor:
    """Return an upper bound for the largest score of each bin."""
    return 1 / (1 + bins.before / bins.high)


def _narrow(layers: list[_Layer], wanted: int, bracket: tuple[int, int]) -> tuple[int, int]:
    """Narrow the bracket of the `wanted`-th largest score among the undecided bins.

    Args:
        layers: the tensors.
        wanted: number of entries to count, 1 or more and at most the number of entries in bins.
        bracket: lower and upper bound of that score, as the bits of float64 numbers.
    """
    every = zip(*(vars(layer.bins).values() for layer in layers), strict=True)
    bins = _Bins(*(torch.cat(values) for values in every))
    last, first = bins.low / bins.through, _first_score(bins)
    lowest, highest = map(_float_of, bracket)
    above = last > highest * (1 + _SLACK)
    wanted -= int(bins.count[above].sum())
    open_ = ~above & (first >= lowest * (1 - _SLACK))
    bins = _Bins(*(value[open_] for value in vars(bins).values()))
    last, first = last[open_], first[open_]

    def at_least(score: float) -> float:
        score *= 1 + _SLACK
        some = ((bins.low / score - bins.before) / bins.high).floor().clamp(min=0)
        return float(torch.where(last >= score, bins.count, some.minimum(bins.count)).sum())

    def at_most(score: float) -> float:
        score *= 1 - _SLACK
        some = ((bins.high / score - bins.before) / bins.low).ceil().clamp(min=0)
        return float(torch.where(first >= score, some.minimum(bins.count), 0.0).sum())

    low, _ = _halve(bracket, lambda score: at_least(score) >= wanted)
    _, high = _halve((low, bracket[1]), lambda score: at_most(score) >= wanted)
    return low, high


def _halve(bracket: tuple[int, int], is_below: Callable[[float], bool]) -> tuple[int, int]:
    """Halve a bracket several times; `is_below` is True up to some score in it."""
    low, high = bracket
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        if middle == low:
            break
        low, high = (middle, high) if is_below(_float_of(middle)) else (low, middle)
    return low, high


def _count_ties(layers: list[_Layer], wanted: int) -> list[int]:
    """Count the largest `wanted` scores in bins that hold one value each."""
    scores, sizes = [], []
    for layer in layers:
        bins = layer.bins
        number = bins.count.long()
        earlier = (number.cumsum(0) - number).repeat_interleave(number)
        place = torch.arange(1, len(earlier) + 1, device="cpu") - earlier  # 1, 2, ... in each bin
        square = bins.low.repeat_interleave(number)
        scores.append(square / (bins.before.repeat_interleave(number) + place * square))
        sizes.append(len(earlier))
    mask = kernels.select(torch.cat(scores)[None], wanted)[0]
    return [int(part.sum()) for part in mask.split(sizes)]


def _float_of(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int64, device="cpu").view(torch.float64))
