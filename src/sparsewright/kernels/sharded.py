"""Weights sharded over ranks (DTensor): positions of shards, and selection over all shards.

No rank ever holds more than its shard. Every rank of the group must enter each collective.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsewright.kernels.reference import NanError, entries_finite, order_keys

_DIGIT = 11  # bits; 2048 counts per row are only 16 KB, so a round costs latency, not bandwidth
_BLOCK = 1 << 22  # entries processed at a time, which bounds the temporaries


def _module() -> Any:
    """Return the DTensor module if it is imported, else None; an import takes half a second."""
    return sys.modules.get("torch.distributed.tensor")


def is_sharded(tensor: object) -> bool:
    """Return whether a tensor is a DTensor."""
    module = _module()
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """Return this rank's part of a sharded tensor, without a copy, or any other tensor itself."""
    part: Tensor = tensor
    if is_sharded(tensor):
        with torch.no_grad():
            part = tensor.to_local()
    return part


def reshard(module: nn.Module) -> None:
    """Make FSDP2 reshard all weights below a module.

    After a forward pass, FSDP2 leaves the weights of its root module gathered.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for each in module.modules() if fsdp is not None else ():
        if isinstance(each, fsdp.FSDPModule):
            each.reshard()


@dataclass(frozen=True)
class Shards:
    """Sharding of a tensor with `shape`: rank `index` of `group` has the rows from `first` on.

    Attributes:
        group: ranks that each hold a part; None: every rank holds the whole tensor.
        height: number of rows on rank 0; the last ranks can have fewer.
    """

    shape: torch.Size
    group: dist.ProcessGroup | None
    index: int
    first: int
    height: int


def shards_of(tensor: Any) -> Shards:
    """Return the sharding of a DTensor.

    Raises:
        ValueError: the placements do not keep the flat order of entries in the order of ranks.
    """
    replicate, shard = _module().Replicate, _module().Shard
    mesh, placements = tensor.device_mesh, tensor.placements
    spread = [dim for dim, placement in enumerate(placements) if type(placement) is not replicate]
    if not spread:
        return Shards(tensor.shape, None, 0, 0, tensor.shape[:1].numel())
    if len(spread) > 1 or type(placements[spread[0]]) is not shard or placements[spread[0]].dim:
        raise ValueError(
            f"its placements are {tuple(placements)}; use Shard(0) in one mesh dimension and "
            "Replicate() in the others"
        )
    index = mesh.get_local_rank(spread[0])
    rows = -(-tensor.shape[0] // mesh.size(spread[0]))  # as torch.chunk divides
    first = min(index * rows, tensor.shape[0])
    return Shards(tensor.shape, mesh.get_group(spread[0]), index, first, rows)


def why_not_sharded(tensor: Tensor) -> str:
    """Return why selection does not support a tensor's placements, or ""."""
    try:
        group_of(tensor)
    except ValueError as error:
        return str(error)
    return ""


def is_spread_like(tensor: Any, like: Any) -> bool:
    """Return whether a tensor is a DTensor with the mesh and placements of `like`."""
    return (
        is_sharded(tensor)
        and tensor.placements == like.placements
        and tensor.device_mesh == like.device_mesh
    )


def placed_like(tensor: Any, like: Any) -> Tensor:
    """Return a DTensor with the mesh and placements of `like`, or any other tensor unchanged.

    If a DTensor has to move, every rank must call this function.
    """
    placed: Tensor = tensor
    if is_sharded(tensor) and is_sharded(like) and not is_spread_like(tensor, like):
        placed = tensor.redistribute(like.device_mesh, like.placements)
    return placed


def group_of(tensor: Tensor) -> dist.ProcessGroup | None:
    """Return the ranks that each hold a part, or None if every rank holds the whole tensor."""
    group: dist.ProcessGroup | None = shards_of(tensor).group if is_sharded(tensor) else None
    return group


def shard_like(tensor: Tensor, like: Any) -> Tensor:
    """Shard a whole tensor, equal on all ranks, like `like`, without communication."""
    if is_sharded(tensor) or not is_sharded(like):
        return tensor
    spread: Tensor = _module().distribute_tensor(
        tensor.to(local(like).device), like.device_mesh, like.placements, src_data_rank=None
    )
    return spread


def from_local(part: Tensor, like: Any) -> Tensor:
    """Return a DTensor shaped and sharded like `like`, with `part` on this rank."""
    spread: Tensor = type(like).from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return spread


def whole(tensor: Any) -> Tensor:
    """Return a small sharded result in full on every rank, or any other tensor unchanged."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def sum_over(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum small tensors over the ranks of a group, in place."""
    if group is not None:
        dist.all_reduce(counts, group=group)
    return counts


def min_over(value: Tensor, group: dist.ProcessGroup | None) -> float:
    """Return the smallest of one number on each rank of a group."""
    if group is not None:
        dist.all_reduce(value, dist.ReduceOp.MIN, group=group)
    return float(value)


def norm_over(norms: Tensor, norm: float, group: dist.ProcessGroup | None) -> Tensor:
    """Return the norm of vectors that are spread over the ranks of a group.

    Args:
        norms: norm of each vector's part on this rank, any shape, floating point.
        norm: order of the norm, a number > 0 or inf.
        group: ranks that hold the parts; None: this rank holds them all.

    Returns:
        Norm of each vector, float64, equal on all ranks; NaN if it is NaN on any rank.
    """
    is_nan = sum_over(norms.isnan().long(), group) > 0
    own = norms.double().nan_to_num(posinf=math.inf)
    largest = own.clone()
    if group is not None:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    total = largest
    if norm != math.inf:
        # Divide by the largest part, so that powers neither overflow nor vanish.
        scale = largest.where((largest > 0) & largest.isfinite(), 1)
        total = sum_over((own / scale).pow(norm), group).pow(1 / norm) * scale
    return total.masked_fill(is_nan, math.nan)


def all_finite(tensor: Tensor) -> bool:
    """Return whether every entry of a tensor is finite on all ranks."""
    bad = (~entries_finite(local(tensor))).long()
    return not int(sum_over(bad, group_of(tensor)))


def has_nan(tensor: Tensor, group: dist.ProcessGroup | None) -> bool:
    """Return whether a part of a tensor contains NaN on any rank of a group."""
    return bool(int(sum_over(tensor.isnan().any().long(), group)))


def count_rows(mask: Tensor, lengths: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """Count the True entries per row over all ranks: int64 `[rows]` on the CPU.

    `mask` and `lengths` have the form of `score` and `lengths` in `select`.
    """
    counts = torch.stack([row.sum() for row in mask.split(list(lengths))])
    return sum_over(counts, group).cpu()


def select(
    score: Tensor,
    lengths: Sequence[int],
    num: Sequence[int],
    among: Tensor | None,
    magnitude: bool,
    group: dist.ProcessGroup | None,
    index: int,
) -> Tensor:
    """Mark the `num[row]` largest scores of each row, where rows are spread over several ranks.

    The result is exact, with the same ties as `kernels.select`: a row's entries are ordered by
    rank, then by position. The k-th key is found digit by digit from summed histograms (radix
    selection).

    Args:
        score: this rank's entries, `[sum(lengths)]`, row after row.
        lengths: number of this rank's entries in each row.
        num: number of entries to mark in each row, over all ranks.
        among: bool, shaped like `score`; True marks candidates; None: all entries.
        magnitude: rank by |score|, otherwise by score.
        group: ranks that hold the rows; None: this rank holds them all.
        index: position of this rank in the group.

    Returns:
        Bool, shaped like `score`.

    Raises:
        NanError: a candidate is NaN on any rank.
    """
    among = torch.ones_like(score, dtype=torch.bool) if among is None else among
    bad = (score.isnan() & among).sum()
    candidates = [row.sum() for row in among.split(list(lengths))]
    facts = sum_over(torch.stack([bad, *candidates]), group).cpu()
    if int(facts[0]):
        raise NanError("score is NaN at a candidate")
    keys = order_keys(score, magnitude)
    rows = list(zip(keys.split(list(lengths)), among.split(list(lengths)), strict=True))

    def histogram(prefix: Sequence[int], digit: Digit) -> Tensor:
        counts = torch.zeros(len(rows), digit.values, dtype=torch.int64, device=score.device)
        for row, (part, candidate) in enumerate(rows):
            count_digits(counts[row], part, candidate, prefix[row], digit)
        return sum_over(counts, group).cpu()

    wanted = torch.minimum(torch.tensor(list(num), device="cpu"), facts[1:])
    kth, at_kth = kth_largest(torch.iinfo(keys.dtype).bits, wanted, histogram)
    own_ties = torch.zeros(len(rows), dtype=torch.int64, device=score.device)
    for row, (part, candidate) in enumerate(rows):
        own_ties[row] = ((part == kth[row]) & candidate).sum()
    earlier = _before(own_ties, group, index)
    marked = [
        _mark(part, candidate, kth[row], at_kth[row] - earlier[row])
        for row, (part, candidate) in enumerate(rows)
    ]
    return torch.cat(marked) if marked else torch.zeros_like(among)


@dataclass(frozen=True)
class Digit:
    """Digit of a key with `bits` bits: the `width` bits above its lowest `shift` bits."""

    shift: int
    width: int
    bits: int

    @property
    def values(self) -> int:
        """Return the number of values of the digit."""
        return 1 << self.width

    @property
    def is_first(self) -> bool:
        """Return whether the digit includes the sign bit."""
        return self.shift + self.width == self.bits


def kth_largest(
    bits: int, wanted: Tensor, histogram: Callable[[Sequence[int], Digit], Tensor]
) -> tuple[list[int], list[int]]:
    """Find the k-th largest integer of each row, digit by digit.

    Args:
        bits: width of the integers.
        wanted: k of each row, at most the row's length.
        histogram: a function of the digits found so far in each row and the next digit. It counts
            each value of that digit among the integers that start with the digits found so far:
            int64 `[rows, values]` on the CPU.

    Returns:
        For each row, the `wanted[row]`-th largest integer, and the number of integers equal to it
        among the `wanted[row]` largest.
    """
    left: list[int] = wanted.tolist()
    prefix = [0] * len(left)
    shift = bits
    while shift:
        width = min(_DIGIT, shift)
        shift -= width
        digit = Digit(shift, width, bits)
        above = histogram(prefix, digit).flip(1).cumsum(1)
        for row, total in enumerate(above):
            place = int(torch.searchsorted(total, left[row])) if left[row] else 0
            value = digit.values - 1 - place
            left[row] -= int(total[place - 1]) if place else 0
            sign = digit.values >> 1 if digit.is_first else 0
            prefix[row] = (prefix[row] << width) + value - sign
    return prefix, left


def count_digits(
    counts: Tensor, keys: Tensor, among: Tensor | None, prefix: int, digit: Digit
) -> None:
    """Add to `counts` a digit's histogram over the candidates that start with `prefix`."""
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        if among is not None:
            block = block[among[start : start + _BLOCK]]
        if digit.is_first:
            values = (block >> digit.shift) + (digit.values >> 1)  # signed, so shift to >= 0
        else:
            block = block[(block >> (digit.shift + digit.width)) == prefix]
            values = (block >> digit.shift) & (digit.values - 1)
        counts += torch.bincount(values, minlength=digit.values)


def _before(own: Tensor, group: dist.ProcessGroup | None, index: int) -> list[int]:
    """Return the number of ties in each row on the ranks before this one."""
    if group is None:
        return [0] * len(own)
    every = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return torch.stack([torch.zeros_like(own), *every[:index]]).sum(0).tolist()


def _mark(keys: Tensor, among: Tensor, kth: int, ties: int) -> Tensor:
    """Mark candidates above the k-th key, and the first `ties` candidates equal to it."""
    mask = (keys > kth).logical_and_(among)
    if ties > 0:
        equal = ((keys == kth) & among).nonzero()[:ties, 0]
        mask[equal] = True
    return mask
