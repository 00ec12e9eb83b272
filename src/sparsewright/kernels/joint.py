"""Selection over several tensors at once, which can be sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewright.kernels import native, reference, sharded
from sparsewright.kernels.reference import NanError, order_keys


def count_largest(
    tensors: Sequence[Tensor],
    num: int,
    among: Sequence[Tensor] | None = None,
    magnitude: bool = True,
) -> list[int]:
    """Count the entries of each tensor that are among the `num` largest |entries| of all tensors.

    On ties, the entries of earlier tensors count. The result is also exact for sharded tensors,
    and ranks exchange only histograms. Every rank must call this function and gets the same
    counts.

    Args:
        tensors: floating point, any shapes.
        num: number of entries to count; all candidates count if there are fewer.
        among: a bool tensor for each tensor, with its shape and sharding; True marks candidates.
            None: all entries are candidates.
        magnitude: rank by |entry|, otherwise by value.

    Raises:
        NanError: a candidate is NaN.

    >>> count_largest([torch.tensor([3.0, 1.0]), torch.tensor([2.0, -4.0])], 2)
    [1, 1]
    """
    if not tensors:
        return []
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    if any(sharded.is_sharded(tensor) for tensor in tensors):
        candidates: Sequence[Tensor | None] = among or [None] * len(tensors)
        pairs = zip(tensors, candidates, strict=True)
        return _count_sharded([_piece(*pair, dtype, magnitude) for pair in pairs], num)
    parts = [tensor.detach().to(dtype) for tensor in tensors]
    reason = native.why_not(*parts, *(among or ()))
    if not reason:
        return native.count_largest(parts, num, among, magnitude)
    native.note_fallback("count_largest", reason)
    return reference.count_largest(parts, num, among, magnitude)


@dataclass(frozen=True)
class _Piece:
    """This rank's part of a tensor, flattened; `nan` is whether a candidate is NaN."""

    keys: Tensor
    among: Tensor
    nan: Tensor
    group: dist.ProcessGroup | None


def _piece(tensor: Tensor, among: Tensor | None, dtype: torch.dtype, magnitude: bool) -> _Piece:
    part = sharded.local(tensor).detach().reshape(-1).to(dtype)
    candidate = torch.ones_like(part, dtype=torch.bool)
    if among is not None:
        candidate = sharded.local(among).reshape(-1)
    return _Piece(
        order_keys(part, magnitude=magnitude),
        candidate,
        (part.isnan() & candidate).any(),
        sharded.group_of(tensor),
    )


def _count_sharded(pieces: list[_Piece], num: int) -> list[int]:
    nan, candidates = _over_ranks(pieces, lambda p: [p.nan.sum(), p.among.sum()])
    if int(nan.sum()):
        raise NanError("an entry is NaN")

    def histogram(prefix: Sequence[int], digit: sharded.Digit) -> Tensor:
        total = torch.zeros(digit.values, dtype=torch.int64, device="cpu")
        for group, members in _by_group(pieces):
            counts = torch.zeros(digit.values, dtype=torch.int64, device=members[0].keys.device)
            for piece in members:
                sharded.count_digits(counts, piece.keys, piece.among, prefix[0], digit)
            total += sharded.sum_over(counts, group).cpu()
        return total.unsqueeze(0)

    bits = torch.iinfo(pieces[0].keys.dtype).bits
    wanted = candidates.sum().clamp(max=num).reshape(1)
    (kth,), (ties,) = sharded.kth_largest(bits, wanted, histogram)
    above, equal = _over_ranks(
        pieces,
        lambda p: [((p.keys > kth) & p.among).sum(), ((p.keys == kth) & p.among).sum()],
    )
    earlier = equal.cumsum(0) - equal
    return (above + (ties - earlier).clamp(min=0).minimum(equal)).tolist()


def _by_group(pieces: list[_Piece]) -> list[tuple[dist.ProcessGroup | None, list[_Piece]]]:
    """Return the pieces of each group of ranks, in the same order on every rank."""
    groups = dict.fromkeys(piece.group for piece in pieces)
    return [(group, [p for p in pieces if p.group is group]) for group in groups]


def _over_ranks(
    pieces: list[_Piece], facts: Callable[[_Piece], list[Tensor]]
) -> tuple[Tensor, ...]:
    """Sum each count that `facts` returns for a piece over the ranks: int64 `[pieces]` each."""
    found: dict[int, Tensor] = {}
    for group, members in _by_group(pieces):
        own = torch.stack([torch.stack(facts(piece)) for piece in members])
        for piece, row in zip(members, sharded.sum_over(own, group).cpu(), strict=True):
            found[id(piece)] = row
    return torch.stack([found[id(piece)] for piece in pieces]).unbind(1)
