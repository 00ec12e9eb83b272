"""The specification: every kernel in plain torch, for any device, layout and dtype torch takes.

The k-th key comes from torch.topk on every device. numpy.partition is 1-4x faster on the CPU for
distinct values and 6x slower (2.6 s against 0.4 s at 16M entries) where 90% of them are equal, as
the zeros of a pruned weight are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGER = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_CACHED, _AT_ONCE = 1 << 15, 1 << 22  # entries worked on together, in a cache or not
_MANY_COUNTS = 16  # more distinct counts than this: one sort is cheaper than a topk for each


class NanError(ValueError):
    """A candidate's score is NaN: there is no largest."""


def check_mask(tensor: Tensor, mask: Tensor) -> None:
    """Raise where `mask` is not a bool mask of the shape of `tensor`."""
    if mask.dtype is not torch.bool:
        raise TypeError(f"a mask is bool, got {mask.dtype}")
    if mask.shape != tensor.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, tensor {tuple(tensor.shape)}")


def prune_(tensor: Tensor, mask: Tensor) -> Tensor:
    """tensor = where(mask, tensor, 0), in place: a selection, so NaN and inf vanish."""
    check_mask(tensor, mask)
    with torch.no_grad():
        return tensor.masked_fill_(~mask, 0)


def check_select(score: Tensor, num: int | Sequence[int] | Tensor, among: Tensor | None) -> Tensor:
    """Raise where the arguments of select do not fit; return `num` as int64 [rows] on the CPU."""
    if score.dtype not in _INTEGER:
        raise TypeError(f"score must be float16, bfloat16, float32 or float64, got {score.dtype}")
    if score.dim() != 2:
        raise ValueError(f"score must be [rows, n], got shape {tuple(score.shape)}")
    if among is not None:
        check_mask(score, among)
    rows = score.shape[0]
    if isinstance(num, int):
        counts = torch.full((rows,), num, dtype=torch.int64, device="cpu")
    else:
        given = torch.as_tensor(num, device="cpu")
        if given.is_floating_point() and given.numel():
            raise TypeError(f"num must be integers, got {given.dtype}")
        counts = given.to(torch.int64).contiguous()
    if counts.dim() == 0:
        counts = counts.repeat(rows)
    if counts.shape != (rows,):
        raise ValueError(f"num must be [rows] = [{rows}], got shape {tuple(counts.shape)}")
    if rows and int(counts.min()) < 0:
        raise ValueError("num must not be negative")
    return counts


def order_keys(score: Tensor, magnitude: bool) -> Tensor:
    """Integers that rise with the score: bits & max, negated where the score is negative."""
    integer = _INTEGER[score.dtype]
    bits = score.detach().contiguous().view(integer)
    size = bits & torch.iinfo(integer).max
    return size if magnitude else torch.where(bits < 0, -size, size)


def kth_largest(keys: Tensor, num: Tensor) -> Tensor:
    """The num[row]-th largest key of every row; the largest integer where num is 0."""
    kth = keys.new_full(keys.shape[:1], torch.iinfo(keys.dtype).max)
    distinct = num[num > 0].unique().tolist()
    if len(distinct) > _MANY_COUNTS:
        ranked = keys.sort(dim=1, descending=True).values
        at = (num - 1).clamp(min=0).to(keys.device)
        return torch.where(num.to(keys.device) > 0, ranked.gather(1, at[:, None])[:, 0], kth)
    for count in distinct:
        rows = (num == count).nonzero()[:, 0].to(keys.device)
        part = keys if len(rows) == len(keys) else keys[rows]
        kth[rows] = part.topk(count, dim=1, sorted=False).values.amin(dim=1)
    return kth


def _check_nan(score: Tensor, among: Tensor | None) -> None:
    nan = score.isnan() if among is None else score.isnan() & among
    rows = nan.any(dim=1).nonzero()
    if len(rows):
        raise_nan(int(rows[0]))


def raise_nan(row: int) -> None:
    """Raise: a candidate of this row is NaN."""
    raise NanError(f"score is NaN at a candidate of row {row}")


def select(
    score: Tensor,
    num: int | Sequence[int] | Tensor,
    among: Tensor | None = None,
    magnitude: bool = True,
) -> Tensor:
    """Per row, the `num` largest scores (or |scores|) among the candidates; lower index first."""
    num = check_select(score, num, among)
    _check_nan(score, among)
    keys = order_keys(score, magnitude)
    if among is not None:
        keys = keys.masked_fill(~among, torch.iinfo(keys.dtype).min)
        num = torch.minimum(num, count_rows(among).cpu())
    num = num.clamp(max=score.shape[1])
    kth = kth_largest(keys, num)[:, None]
    mask = keys > kth
    ties = keys == kth
    wanted = num.to(keys.device) - count_rows(mask)
    mask |= ties
    over = (wanted < count_rows(ties)).nonzero()[:, 0]
    if len(over):
        _drop_late_ties(mask, ties, wanted, over)
    return mask


def _drop_late_ties(mask: Tensor, ties: Tensor, wanted: Tensor, over: Tensor) -> None:
    """Keep only the first wanted[row] ties of the rows `over`: a running count over ties alone."""
    row, column = ties[over].nonzero(as_tuple=True)  # row-major, so ascending inside a row
    per_row = torch.bincount(row, minlength=len(over))
    first = per_row.cumsum(0) - per_row
    position = torch.arange(len(row), device=row.device) - first[row]
    late = position >= wanted[over][row]
    mask[over[row[late]], column[late]] = False


def entries_finite(tensor: Tensor) -> Tensor:
    """Whether every entry is finite; 0-d bool on the tensor's device.

    By the extremes, which are NaN if any entry is: one pass without temporaries, where
    `isfinite().all()` takes 10 to 40 times as long on a CPU.
    """
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return torch.stack(torch.aminmax(tensor)).isfinite().all()


def check_uniform(tensor: Tensor, key: int, first: int) -> None:
    """Raise where the arguments of uniform_ do not fit."""
    if tensor.dtype is not torch.float32:
        raise TypeError(f"uniform numbers are float32, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError("uniform numbers need a contiguous tensor")
    if not (0 <= key < 1 << 64 and 0 <= first < 1 << 63):
        raise ValueError(f"key {key} or first {first} is out of range")


def uniform_(tensor: Tensor, key: int, first: int) -> None:
    """Entry i in flat order = the number of step `first + i` of SplitMix64 from the state `key`."""
    flat = tensor.view(-1)
    block = _CACHED if tensor.device.type == "cpu" else _AT_ONCE
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        steps = torch.arange(len(part), device=tensor.device)
        z = steps.add_(first + start + 1).mul_(_signed(0x9E3779B97F4A7C15)).add_(_signed(key))
        z.bitwise_xor_(_shift(z, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
        z.bitwise_xor_(_shift(z, 27)).mul_(_signed(0x94D049BB133111EB))
        z.bitwise_xor_(_shift(z, 31))
        part.copy_(_shift(z, 40)).mul_(2**-24)


def _signed(bits: int) -> int:
    """64 bits as the int64 that torch takes."""
    return bits - (bits >> 63 << 64)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right, zeros from the left."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def count_rows(mask: Tensor) -> Tensor:
    """Number of True in each row of a bool mask."""
    if mask.dtype is not torch.bool:
        raise TypeError(f"a mask is bool, got {mask.dtype}")
    if mask.dim() != 2:
        raise ValueError(f"mask must be [rows, n], got shape {tuple(mask.shape)}")
    return mask.sum(dim=1)


def count_changes(old: Tensor, new: Tensor) -> tuple[int, int]:
    """|old & ~new|, |new & ~old|."""
    check_mask(old, new)
    check_mask(new, old)
    return int((old & ~new).sum()), int((new & ~old).sum())
