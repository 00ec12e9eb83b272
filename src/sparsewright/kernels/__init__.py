"""Kernels of masked sparse training: one function per operation.

Each call takes the native kernel where it applies and the plain-torch twin in `reference`
otherwise; both give the same bits. `info()` says which are active and why calls fell back.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparsewright.kernels import native, reference
from sparsewright.kernels.native import info
from sparsewright.kernels.reference import NanError

__all__ = [
    "NanError",
    "count_changes",
    "count_rows",
    "info",
    "prune_",
    "prune_many_",
    "select",
    "uniform_",
]


def prune_(tensor: Tensor, mask: Tensor, *, threads: int | None = None) -> Tensor:
    """Set the pruned entries of `tensor` to +0, in place: tensor = where(mask, tensor, 0).

    A NaN or inf in a pruned place becomes +0; kept entries keep their bits. Autograd sees an
    in-place change (the version counter moves) but records nothing.

    Args:
        tensor: any shape; float16, bfloat16, float32 or float64 on the CPU with the mask's
            dense layout take the native kernel, everything else plain torch.
        mask: bool, the same shape and device; True = kept.
        threads: native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: `tensor`.

    Raises:
        TypeError: `mask` is not bool.
        ValueError: the shapes differ.
    """
    reason = native.prune_(tensor, mask, threads=threads)
    if reason:
        native.note_fallback("prune_", reason)
        reference.prune_(tensor, mask)
    return tensor


def prune_many_(
    tensors: Sequence[Tensor], masks: Sequence[Tensor], *, threads: int | None = None
) -> None:
    """`prune_` for every pair, in one native call for all pairs that the kernel takes.

    Raises:
        TypeError, ValueError: as `prune_`, or the lists differ in length. Every pair is checked
            before any tensor changes.
    """
    if len(tensors) != len(masks):
        raise ValueError(f"{len(tensors)} tensors but {len(masks)} masks")
    refused = native.prune_many_(tensors, masks, threads=threads)
    if not refused:
        return
    for index in refused:
        reference.check_mask(tensors[index], masks[index])
    taken = [index for index in range(len(tensors)) if index not in refused]
    native.prune_many_([tensors[i] for i in taken], [masks[i] for i in taken], threads=threads)
    for index, reason in refused.items():
        native.note_fallback("prune_", reason)
        reference.prune_(tensors[index], masks[index])


def select(
    score: Tensor,
    num: int | Sequence[int] | Tensor,
    among: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
) -> Tensor:
    """Mark the `num[row]` largest scores of every row; ties go to the lower index.

    Exact for any thread count, instruction set and device. -0.0 equals +0.0, inf is allowed. A
    row with fewer than `num` candidates marks them all.

    Args:
        score: [rows, n], float16, bfloat16, float32 or float64.
        num: entries to mark, >= 0; one number, or one per row.
        among: bool [rows, n], the candidates; None = all.
        magnitude: rank by |score|, otherwise by score.
        threads: native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: bool mask [rows, n].

    Raises:
        TypeError: `score` is not floating point, or `among` not bool.
        ValueError: a candidate is NaN (names the first such row), a shape does not fit, or a
            `num` is negative.

    Source: Floyd and Rivest, "Expected time bounds for selection", 1975 (the native kernel).

    >>> import torch
    >>> select(torch.tensor([[1.0, -3.0, 2.0, -2.0]]), 2)
    tensor([[False,  True,  True, False]])
    >>> select(torch.tensor([[1.0, -3.0, 2.0, -2.0]]), 2, magnitude=False)
    tensor([[ True, False,  True, False]])
    """
    num = reference.check_select(score, num, among)
    reason = native.why_not(score) if among is None else native.why_not(score, among)
    if reason:
        native.note_fallback("select", reason)
        return reference.select(score, num, among, magnitude)
    return native.select(score, num, among, magnitude, threads=threads)


def count_rows(mask: Tensor, *, threads: int | None = None) -> Tensor:
    """Count the True entries in each row of a bool mask [rows, n]: int64 [rows], mask's device.

    Raises:
        TypeError: `mask` is not bool.
        ValueError: `mask` is not two-dimensional.
    """
    reference.check_rows(mask)
    reason = native.why_not(mask)
    if reason:
        native.note_fallback("count_rows", reason)
        return reference.count_rows(mask)
    return native.count_rows(mask, threads=threads)


def count_changes(old: Tensor, new: Tensor, *, threads: int | None = None) -> tuple[int, int]:
    """Count the entries that the mask `new` lost and won against `old`: (dropped, grown).

    dropped = |old & ~new|, grown = |new & ~old|.

    Raises:
        TypeError: a mask is not bool.
        ValueError: the shapes differ.

    >>> import torch
    >>> count_changes(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    (1, 1)
    """
    reference.check_masks(old, new)
    reason = native.why_not(old, new)
    if reason:
        native.note_fallback("count_changes", reason)
        return reference.count_changes(old, new)
    return native.count_changes(old, new, threads=threads)


def uniform_(tensor: Tensor, key: int, first: int = 0, *, threads: int | None = None) -> Tensor:
    """Fill with uniform numbers in [0, 1), in steps of 2^-24, that depend on key and place alone.

    Entry i in flat order is the number of step `first + i`: a part of a weight can be filled
    without what comes before it, on any device and any number of threads, with the same bits.

    Args:
        tensor: float32, contiguous.
        key: 0 <= key < 2^64.
        first: 0 <= first < 2^63.
        threads: native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: `tensor`.

    Raises:
        TypeError: `tensor` is not float32.
        ValueError: it is not contiguous, or a number is out of range.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014, the
    generator SplitMix64; the upper 24 bits of each number.
    """
    reference.check_uniform(tensor, key, first)
    reason = native.why_not(tensor)
    if reason:
        native.note_fallback("uniform_", reason)
        reference.uniform_(tensor, key, first)
    else:
        native.uniform_(tensor, key, first, threads=threads)
    return tensor
