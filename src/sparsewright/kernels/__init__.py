"""Kernels for masked sparse training, one function per operation.

Each call uses the native kernel if it supports the arguments, and otherwise the reference
implementation in plain torch. Both return the same bits. Call `info()` to see which kernels are
active and why calls fell back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sparsewright.kernels import native, reference
from sparsewright.kernels.native import info
from sparsewright.kernels.reference import NanError

__all__ = [
    "NanError",
    "count_changes",
    "count_rows",
    "expand_blocks",
    "info",
    "pool_blocks",
    "prune_",
    "prune_many_",
    "select",
    "select_n_m",
    "select_tiles",
    "uniform_",
]


def prune_(tensor: Tensor, mask: Tensor, *, threads: int | None = None) -> Tensor:
    """Set the pruned entries of `tensor` to +0, in place: tensor = where(mask, tensor, 0).

    NaN and inf in pruned entries become +0, and kept entries keep their bits. Autograd sees an
    in-place change (the version counter increases) but records no operation.

    Args:
        tensor: any shape. The native kernel prunes float16, bfloat16, float32 and float64 on the
            CPU if the mask has the same dense layout; plain torch prunes everything else.
        mask: bool, the same shape and device; True = kept.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

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
    """Apply `prune_` to every pair, with one native call for all pairs that the kernel supports.

    Every pair is checked before any tensor changes.

    Raises:
        TypeError: a mask is not bool.
        ValueError: the shapes of a pair differ, or the lists differ in length.
    """
    if len(tensors) != len(masks):
        raise ValueError(
            f"expected one mask per tensor; got {len(tensors)} tensors and {len(masks)} masks"
        )
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
    """Mark the `num[row]` largest scores of every row; on ties, the lower index wins.

    The result is exact for any thread count, instruction set and device. -0.0 equals +0.0, and
    inf is allowed. In a row with fewer than `num` candidates, all candidates are marked.

    Args:
        score: [rows, n], float16, bfloat16, float32 or float64.
        num: number of entries to mark, >= 0; one number, or one per row.
        among: bool [rows, n], True for candidates; None = all entries.
        magnitude: rank by |score|, otherwise by score.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: bool mask [rows, n].

    Raises:
        TypeError: `score` is not floating point, or `among` is not bool.
        ValueError: a candidate is NaN (the message names the first such row), a shape does not
            fit, or `num` is negative.

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


def select_n_m(
    score: Tensor,
    n: int,
    m: int,
    dim: int,
    among: Tensor | None = None,
    kept: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
) -> Tensor:
    """Mark the n largest scores of every m consecutive entries along one dimension.

    On ties the lower index wins, as in `select`.

    Args:
        score: float16, bfloat16, float32 or float64.
        n: number of entries to mark in each group, 1..m.
        m: number of entries in a group; must divide dimension `dim`. The native kernel supports m
            up to 32; larger groups are copied into rows and selected with `select`.
        dim: dimension along which the entries of a group lie, counted from 0.
        among: bool, shaped like `score`, True for candidates. A group with fewer than n candidates
            gets them all. None: all entries.
        kept: bool, shaped like `score`. All these entries are marked, and the largest others fill
            each group up to n. Not together with `among`.
        magnitude: rank by |score|, otherwise by score.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: contiguous bool mask, shaped like `score`.

    Raises:
        TypeError: `score` is not floating point, or a mask is not bool.
        ValueError: a candidate is NaN, a shape does not fit, n is out of range, or both masks are
            given.

    >>> import torch
    >>> select_n_m(torch.tensor([[1.0, -3.0, 2.0, -2.0]]), 1, 2, 1)
    tensor([[False,  True,  True, False]])
    """
    reference.check_groups(score, n, m, (dim,), among, kept)
    reason = native.why_not(score, *(mask for mask in (among, kept) if mask is not None))
    if not reason and m > native.MOST_IN_GROUP:
        reason = f"m is larger than {native.MOST_IN_GROUP}"
    if reason:
        native.note_fallback("select_n_m", reason)
        return reference.select_n_m(
            score, n, m, dim, among, kept, magnitude, select_rows=partial(select, threads=threads)
        )
    return native.select_n_m(score, n, m, dim, among, kept, magnitude, threads=threads)


def select_tiles(
    score: Tensor,
    n: int,
    among: Tensor | None = None,
    kept: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
) -> Tensor:
    """Mark the best valid pattern of each 4x4 tile of dimensions 0 and 1.

    A pattern is valid if it has n entries in each row and each column. The best pattern has the
    largest sum of scores; `reference.tiles.choose_patterns` defines the precision of the sum and
    the order of ties. Each position in further dimensions has its own tiles.

    Args:
        score: float16, bfloat16, float32 or float64.
        n: number of entries in each row and each column of a tile, 1..4.
        among: bool, shaped like `score`. The best pattern has the most of these entries, then the
            largest sum of their scores; only its entries in `among` are marked. None: all entries.
        kept: bool, shaped like `score`. All these entries are marked. The best pattern has the most
            of these entries, then the largest sum of the other scores. Not together with `among`.
        magnitude: rank by |score|, otherwise by score.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: contiguous bool mask, shaped like `score`.

    Raises:
        TypeError: `score` is not floating point, or a mask is not bool.
        ValueError: a candidate is NaN, a shape does not fit, n is out of range, or both masks are
            given.
    """
    reference.check_groups(score, n, reference.SIDE, (0, 1), among, kept)
    reason = native.why_not(score, *(mask for mask in (among, kept) if mask is not None))
    if reason:
        native.note_fallback("select_tiles", reason)
        return reference.select_tiles(score, n, among, kept, magnitude)
    return native.select_tiles(score, n, among, kept, magnitude, threads=threads)


def count_rows(mask: Tensor, *, threads: int | None = None) -> Tensor:
    """Count the True entries in each row of a bool mask [rows, n].

    Returns: int64 [rows] on the mask's device.

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
    """Count the entries that were dropped and grown between the masks `old` and `new`.

    Returns: (dropped, grown), where dropped = |old & ~new| and grown = |new & ~old|.

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


def pool_blocks(
    tensor: Tensor,
    pooling: str = "sum",
    magnitude: bool = True,
    *,
    threads: int | None = None,
) -> Tensor:
    """Reduce each block of a weight to one value.

    Entries are combined in a fixed order, so the result is the same on any device, for any
    instruction set and thread count. First the `high` entries of each column are combined, then
    the `wide` results: neighbors in pairs, then neighboring results in pairs, and so on. A last
    value without a neighbor is carried over to the next round.

    Args:
        tensor: real numbers or bool, `[down, high, across, wide]`; block (d, a) has the entries
            `[d, :, a, :]`.
        pooling: `"sum"`, `"squares"` (the sum of the squares) or `"max"` (NaN if a score is NaN).
        magnitude: pool |score|, otherwise the scores.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns:
        `[down, across]`: float64, 0 for blocks without entries; for a bool tensor bool, whether
        an entry is True.

    Raises:
        TypeError: the scores are complex.
        ValueError: the tensor does not have four dimensions, or `pooling` is unknown.

    >>> import torch
    >>> pool_blocks(torch.tensor([[1.0, -2.0, 3.0, 4.0]]).reshape(1, 1, 2, 2))
    tensor([[3., 7.]], dtype=torch.float64)
    """
    reference.check_blocks(tensor, pooling)
    reason = native.why_not(tensor)
    if not reason and not (tensor.is_floating_point() or tensor.dtype == torch.bool):
        reason = "dtypes"
    if not reason and tensor.numel():
        return native.pool_blocks(tensor, pooling, magnitude, threads=threads)
    if reason:
        native.note_fallback("pool_blocks", reason)
    return reference.pool_blocks(tensor, pooling, magnitude)


def expand_blocks(chosen: Tensor, high: int, wide: int, *, threads: int | None = None) -> Tensor:
    """Repeat the flag of each block for all its entries.

    Args:
        chosen: bool `[down, across]`.
        high: number of rows of a block.
        wide: number of entries of a block in a row.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: bool `[down, high, across, wide]`.

    Raises:
        TypeError: `chosen` is not bool.
        ValueError: `chosen` is not two-dimensional.

    >>> import torch
    >>> expand_blocks(torch.tensor([[True, False]]), 1, 2)
    tensor([[[[ True,  True],
              [False, False]]]])
    """
    reference.check_rows(chosen)
    reason = native.why_not(chosen)
    if reason:
        native.note_fallback("expand_blocks", reason)
        return reference.expand_blocks(chosen, high, wide)
    return native.expand_blocks(chosen, high, wide, threads=threads)


def uniform_(tensor: Tensor, key: int, first: int = 0, *, threads: int | None = None) -> Tensor:
    """Fill `tensor` with uniform numbers in [0, 1) that depend only on key and position.

    The numbers are multiples of 2^-24. Entry i in flat order is number `first + i` of the
    sequence, so you can fill part of a weight without computing the entries before it. The bits
    are the same on any device and for any number of threads.

    Args:
        tensor: float32, contiguous.
        key: selects the sequence, 0 <= key < 2^64.
        first: position of the first entry in the sequence, 0 <= first < 2^63.
        threads: number of native threads; None = torch.get_num_threads() from 16 MiB on, else 1.

    Returns: `tensor`.

    Raises:
        TypeError: `tensor` is not float32.
        ValueError: `tensor` is not contiguous, or `key` or `first` is out of range.

    Source: the generator SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014. Each entry uses the upper 24 bits of one number.
    """
    reference.check_uniform(tensor, key, first)
    reason = native.why_not(tensor)
    if reason:
        native.note_fallback("uniform_", reason)
        reference.uniform_(tensor, key, first)
    else:
        native.uniform_(tensor, key, first, threads=threads)
    return tensor
