"""Weights sharded over ranks (DTensor): where a shard lies, and selection over all shards at once.

No rank ever holds more than its shard. Each collective must be entered by every rank of the group.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewright.kernels.reference import NanError, entries_finite, order_keys

_DIGIT = 11  # bits: 2048 counts a row are 16 KB, so a round costs latency, not bandwidth
_BLOCK = 1 << 22  # entries looked at together: bounds the temporaries


def _module() -> Any:
    """Return the module of DTensor, or None if nobody imported it: that takes half a second."""
    return sys.modules.get("torch.distributed.tensor")


def is_sharded(tensor: object) -> bool:
    """Return whether a tensor is a DTensor."""
    module = _module()
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """Return this rank's part of a sharded tensor, sharing memory; any other tensor unchanged."""
    part: Tensor = tensor
    if is_sharded(tensor):
        with torch.no_grad():
            part = tensor.to_local()
    return part


@dataclass(frozen=True)
class Shards:
    """How a tensor of `shape` is spread: rank `index` of `group` has rows from `first` on.

    Attributes:
        group: the ranks that each hold a part; None: every rank holds all of it.
    """

    shape: torch.Size
    group: dist.ProcessGroup | None
    index: int
    first: int


def shards_of(tensor: Any) -> Shards:
    """Return where the parts of a DTensor are.

    Raises:
        ValueError: it is spread in a way whose flat order is not the order of the ranks.
    """
    replicate, shard = _module().Replicate, _module().Shard
    mesh, placements = tensor.device_mesh, tensor.placements
    spread = [dim for dim, placement in enumerate(placements) if type(placement) is not replicate]
    if not spread:
        return Shards(tensor.shape, None, 0, 0)
    if len(spread) > 1 or type(placements[spread[0]]) is not shard or placements[spread[0]].dim:
        raise ValueError(
            f"it is placed as {tuple(placements)}; allowed: Shard(0) in one dimension of the mesh, "
            "Replicate() in the others"
        )
    index = mesh.get_local_rank(spread[0])
    rows = -(-tensor.shape[0] // mesh.size(spread[0]))  # as torch.chunk divides
    first = min(index * rows, tensor.shape[0])
    return Shards(tensor.shape, mesh.get_group(spread[0]), index, first)


def shard_like(tensor: Tensor, like: Any) -> Tensor:
    """Spread a whole tensor, equal on all ranks, as `like`; nothing is sent."""
    if is_sharded(tensor) or not is_sharded(like):
        return tensor
    spread: Tensor = _module().distribute_tensor(
        tensor.to(local(like).device), like.device_mesh, like.placements, src_data_rank=None
    )
    return spread


def from_local(part: Tensor, like: Any) -> Tensor:
    """Return the DTensor, shaped and spread as `like`, of which this rank holds `part`."""
    spread: Tensor = type(like).from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return spread


def whole(tensor: Any) -> Tensor:
    """Return a small sharded result in full, on every rank; any other tensor unchanged."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def sum_over(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum small tensors over the ranks of a group, in place."""
    if group is not None:
        dist.all_reduce(counts, group=group)
    return counts


def all_finite(tensor: Tensor) -> bool:
    """Return whether every entry of a tensor is finite, on all ranks."""
    bad = (~entries_finite(local(tensor))).long()
    return not int(sum_over(bad, shards_of(tensor).group if is_sharded(tensor) else None))


def count_rows(mask: Tensor, lengths: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """Count the True entries per row over all ranks: int64 `[rows]` on the CPU.

    `mask` is as in `select`.
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
    """Mark the `num[row]` largest scores of each row, whose entries lie on several ranks.

    Exact, with the same ties as `kernels.select`: a row's entries are ordered by rank, then by
    position. The k-th key is found digit by digit from summed histograms (radix selection).

    Args:
        score: this rank's entries, `[sum(lengths)]`, row after row.
        lengths: how many of them belong to each row.
        num: entries to mark in each row, over all ranks.
        among: bool, shaped like `score`: the candidates; None: all.
        magnitude: rank by |score|, otherwise by score.
        group: the ranks.
        index: this one's place among them.

    Returns:
        Bool, shaped like `score`.

    Raises:
        NanError: a candidate is NaN, on whichever rank.
    """
    among = torch.ones_like(score, dtype=torch.bool) if among is None else among
    bad = (score.isnan() & among).sum()
    candidates = [row.sum() for row in among.split(list(lengths))]
    facts = sum_over(torch.stack([bad, *candidates]), group).cpu()
    if int(facts[0]):
        raise NanError("score is NaN at a candidate")
    keys = order_keys(score, magnitude)
    rows = list(zip(keys.split(list(lengths)), among.split(list(lengths)), strict=True))
    wanted = torch.minimum(torch.tensor(list(num), device="cpu"), facts[1:])
    kth, at_kth = _kth_largest(rows, wanted, group)
    own_ties = torch.zeros(len(rows), dtype=torch.int64, device=score.device)
    for row, (part, candidate) in enumerate(rows):
        own_ties[row] = ((part == kth[row]) & candidate).sum()
    earlier = _before(own_ties, group, index)
    marked = [
        _mark(part, candidate, kth[row], at_kth[row] - earlier[row])
        for row, (part, candidate) in enumerate(rows)
    ]
    return torch.cat(marked) if marked else torch.zeros_like(among)


def _kth_largest(
    rows: list[tuple[Tensor, Tensor]], wanted: Tensor, group: dist.ProcessGroup | None
) -> tuple[list[int], list[int]]:
    """The `wanted[row]`-th largest key of each row, and how many entries equal to it to mark."""
    dtype, device = rows[0][0].dtype, rows[0][0].device
    bits = torch.iinfo(dtype).bits
    left: list[int] = wanted.tolist()
    prefix = [0] * len(rows)
    shift = bits
    while shift:
        width = min(_DIGIT, shift)
        shift -= width
        counts = torch.zeros(len(rows), 1 << width, dtype=torch.int64, device=device)
        for row, (keys, among) in enumerate(rows):
            for block, candidate in zip(keys.split(_BLOCK), among.split(_BLOCK), strict=True):
                _count_digits(counts[row], block[candidate], prefix[row], shift, width, bits)
        above = sum_over(counts, group).flip(1).cumsum(1).cpu()
        for row, total in enumerate(above):
            place = int(torch.searchsorted(total, left[row])) if left[row] else 0
            digit = (1 << width) - 1 - place
            left[row] -= int(total[place - 1]) if place else 0
            first = shift + width == bits
            prefix[row] = digit - (1 << (width - 1)) if first else (prefix[row] << width) + digit
    return prefix, left


def _count_digits(
    counts: Tensor, keys: Tensor, prefix: int, shift: int, width: int, bits: int
) -> None:
    """Add the histogram of the digit at `shift` of those keys that begin with `prefix`."""
    if shift + width == bits:
        digits = (keys >> shift) + (1 << (width - 1))  # the sign bit turned into an order
    else:
        keys = keys[(keys >> (shift + width)) == prefix]
        digits = (keys >> shift) & ((1 << width) - 1)
    counts += torch.bincount(digits, minlength=1 << width)


def _before(own: Tensor, group: dist.ProcessGroup | None, index: int) -> list[int]:
    """Per row, the ties on the ranks before this one."""
    if group is None:
        return [0] * len(own)
    every = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return torch.stack([torch.zeros_like(own), *every[:index]]).sum(0).tolist()


def _mark(keys: Tensor, among: Tensor, kth: int, ties: int) -> Tensor:
    """Candidates above the k-th key, and the first `ties` of those equal to it."""
    mask = (keys > kth).logical_and_(among)
    if ties > 0:
        equal = ((keys == kth) & among).nonzero()[:ties, 0]
        mask[equal] = True
    return mask
