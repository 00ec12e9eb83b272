"""Weights sharded over ranks (DTensor): where a shard lies, and selection over all shards at once.

No rank ever holds more than its shard. Each collective must be entered by every rank of the group.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

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


def reshard(module: nn.Module) -> None:
    """Let FSDP2 put back the shards of weights below a module that it holds gathered.

    After a forward pass it leaves those of its root so.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for each in module.modules() if fsdp is not None else ():
        if isinstance(each, fsdp.FSDPModule):
            each.reshard()


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


def why_not_sharded(tensor: Tensor) -> str:
    """Return why the parts of a tensor cannot be selected from; "" if they can."""
    try:
        group_of(tensor)
    except ValueError as error:
        return str(error)
    return ""


def is_spread_like(tensor: Any, like: Any) -> bool:
    """Return whether a tensor is a DTensor that is placed as the DTensor `like` is."""
    return (
        is_sharded(tensor)
        and tensor.placements == like.placements
        and tensor.device_mesh == like.device_mesh
    )


def placed_like(tensor: Any, like: Any) -> Tensor:
    """Return a DTensor placed as the DTensor `like`; every rank must take part if it is not yet.

    Any other tensor is returned unchanged.
    """
    placed: Tensor = tensor
    if is_sharded(tensor) and is_sharded(like) and not is_spread_like(tensor, like):
        placed = tensor.redistribute(like.device_mesh, like.placements)
    return placed


def group_of(tensor: Tensor) -> dist.ProcessGroup | None:
    """Return the ranks that each hold a part of a tensor; None: every rank holds all of it."""
    group: dist.ProcessGroup | None = shards_of(tensor).group if is_sharded(tensor) else None
    return group


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
    return not int(sum_over(bad, group_of(tensor)))


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
    """Some bits of a key: `width` of them above the lowest `shift`, out of `bits`."""

    shift: int
    width: int
    bits: int

    @property
    def values(self) -> int:
        """How many values it has."""
        return 1 << self.width

    @property
    def is_first(self) -> bool:
        """Whether the sign is in it."""
        return self.shift + self.width == self.bits


def kth_largest(
    bits: int, wanted: Tensor, histogram: Callable[[Sequence[int], Digit], Tensor]
) -> tuple[list[int], list[int]]:
    """Find the k-th largest integer of each row, digit by digit.

    Args:
        bits: width of the integers.
        wanted: k of each row, at most its length.
        histogram: for the digits found so far of each row and the next digit, how often each of
            its values occurs among the integers that begin so: int64 `[rows, values]`, on the CPU.

    Returns:
        The `wanted[row]`-th largest, and how many equal to it are among the `wanted[row]` largest.
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
    """Add to `counts` the histogram of a digit of those candidates that begin with `prefix`."""
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        if among is not None:
            block = block[among[start : start + _BLOCK]]
        if digit.is_first:
            values = (block >> digit.shift) + (digit.values >> 1)  # the sign turned into an order
        else:
            block = block[(block >> (digit.shift + digit.width)) == prefix]
            values = (block >> digit.shift) & (digit.values - 1)
        counts += torch.bincount(values, minlength=digit.values)


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
