"""Bindings to the compiled kernels, and the reasons why they are not used.

Environment variables, read once at import:
    SPARSEWRIGHT_KERNELS  "reference" disables the compiled kernels; the default is "auto".
    SPARSEWRIGHT_ISA      "portable", "avx2" or "avx512"; the default is the best the CPU has.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypedDict

import torch
from torch import Tensor

from sparsewright.kernels.reference import NanError, raise_nan

_ABI = 6
MOST_IN_GROUP = 32  # entries in a group that `select_n_m` supports

_fallbacks: Counter[tuple[str, str]] = Counter()


def _load() -> tuple[ModuleType | None, str, str]:
    """Return the module, the instruction set, and the reason if there is no module.

    A missing module causes no warning; a broken module or an invalid variable does.
    """
    wanted = os.environ.get("SPARSEWRIGHT_KERNELS", "auto")
    if wanted == "reference":
        return None, "", "disabled by SPARSEWRIGHT_KERNELS=reference"
    if wanted != "auto":
        warnings.warn(
            f"ignoring SPARSEWRIGHT_KERNELS={wanted!r}; set it to 'auto' or 'reference'",
            stacklevel=2,
        )
    name = f"{__package__}._native"
    if importlib.util.find_spec(name) is None:
        return (
            None,
            "",
            "the extension is not installed (the package was built without a C++ compiler)",
        )
    try:
        module = importlib.import_module(name)
        if module.abi != _ABI:
            raise ImportError(f"{module.__file__} was built for another version; rebuild it")
    except (ImportError, OSError, AttributeError, RuntimeError, SystemError) as error:
        why = f"the extension cannot be loaded: {error}"
        warnings.warn(f"{why}; using the plain torch kernels", RuntimeWarning, stacklevel=2)
        return None, "", why
    isa = os.environ.get("SPARSEWRIGHT_ISA", "auto")
    try:
        return module, module.resolve_isa(isa), ""
    except ValueError as error:
        warnings.warn(f"ignoring SPARSEWRIGHT_ISA: {error}", RuntimeWarning, stacklevel=2)
        return module, module.best_isa(), ""


_loaded, _isa, _why_not = _load()
_module: Any = _loaded


class Info(TypedDict):
    """Result of `info`."""

    active: str
    why_not: str
    isa: str
    best_isa: str
    compiler: str
    path: str
    threads: int
    cpu: str
    fallbacks: dict[str, int]


def info() -> Info:
    """Return which kernels are active, and why the native kernels are not.

    Returns:
        A dict with `active` ("native" or "reference"), `why_not` (the reason if native kernels are
        not active, else ""), `isa` and `best_isa`, `compiler`, `path` (of the library), `threads`,
        `cpu` (torch's name for the capability), and `fallbacks`, `{"operation: reason": number of
        calls since import}`.
    """
    return {
        "active": "reference" if _module is None else "native",
        "why_not": _why_not,
        "isa": _isa,
        "best_isa": _module.best_isa() if _module else "",
        "compiler": _module.compiler if _module else "",
        "path": _module.__file__ if _module else "",
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "fallbacks": {f"{op}: {why}": n for (op, why), n in sorted(_fallbacks.items())},
    }


def module() -> Any:
    """Return the compiled module, or None."""
    return _module


def isa() -> str:
    """Return the instruction set in use."""
    return _isa


def note_fallback(operation: str, reason: str) -> None:
    """Count a call that fell back to the reference kernel, by reason."""
    _fallbacks[operation, reason] += 1


def why_not(*tensors: Tensor) -> str:
    """Return why the compiled kernels cannot read these tensors, or ""."""
    if _module is None:
        return _why_not
    for tensor in tensors:
        reason: str = _module.why_not(tensor)
        if reason or tensor.is_neg():
            return reason or "a lazily negated view"
    return ""


# In the functions below, `threads=None` means torch.get_num_threads() from 16 MiB on, else 1.


def prune_(
    tensor: Tensor, mask: Tensor, *, threads: int | None = None, isa: str | None = None
) -> str:
    """Prune with the native kernel; return "", or the reason why nothing was done."""
    if _module is None:
        return _why_not
    reason: str = _module.prune_(tensor, mask, threads, isa or _isa)
    return reason


def prune_many_(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> dict[int, str]:
    """Prune all pairs with the native kernel.

    Returns:
        {} if all pairs were pruned. If some pairs are not supported, nothing is pruned, and the
        dict has the reason for each of those pairs, by index.
    """
    if _module is None:
        return dict.fromkeys(range(len(tensors)), _why_not)
    refused: dict[int, str] = _module.prune_many_(tensors, masks, threads, isa or _isa)
    return refused


def select(
    score: Tensor,
    num: Tensor,
    among: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> Tensor:
    """Select with the native kernel; `num` must come from `reference.check_select`."""
    score = score.contiguous()
    among = None if among is None else among.contiguous()
    mask = score.new_empty(score.shape, dtype=torch.bool)
    nan_row = _module.select(score, num, among, mask, magnitude, threads, isa or _isa)
    if nan_row >= 0:
        raise_nan(nan_row)
    return mask


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
    isa: str | None = None,
) -> Tensor:
    """Select n of every m entries with the native kernel, m at most `MOST_IN_GROUP`."""
    score, mask, out = _grouped(score, among, kept)
    fill, isa = kept is not None, isa or _isa
    if not _module.select_n_m(score, n, m, dim, mask, fill, out, magnitude, threads, isa):
        raise NanError("score has NaN among the candidates")
    return out


def select_tiles(
    score: Tensor,
    n: int,
    among: Tensor | None = None,
    kept: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> Tensor:
    """Select the best pattern of each 4x4 tile with the native kernel."""
    score, mask, out = _grouped(score, among, kept)
    fill, isa = kept is not None, isa or _isa
    if not _module.select_tiles(score, n, mask, fill, out, magnitude, threads, isa):
        raise NanError("score has NaN among the candidates")
    return out


def _grouped(
    score: Tensor, among: Tensor | None, kept: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return contiguous scores, a contiguous mask if there is one, and an empty result."""
    mask = among if kept is None else kept
    mask = None if mask is None else mask.contiguous()
    return score.contiguous(), mask, score.new_empty(score.shape, dtype=torch.bool)


def count_largest(
    tensors: Sequence[Tensor],
    num: int,
    among: Sequence[Tensor] | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> list[int]:
    """Count the largest |entries| of all tensors, which have one dtype, with the native kernel."""
    joint = [tensor.contiguous() for tensor in tensors]
    candidates = None if among is None else [mask.contiguous() for mask in among]
    counts: list[int] | None = _module.count_largest(
        joint, candidates, num, magnitude, threads, isa or _isa
    )
    if counts is None:
        raise NanError("a candidate is NaN")
    return counts


def count_rows(mask: Tensor, *, threads: int | None = None, isa: str | None = None) -> Tensor:
    """Count the True entries of each row with the native kernel: int64 `[rows]`."""
    counts = mask.new_empty(mask.shape[0], dtype=torch.int64)
    _module.count_rows(mask.contiguous(), counts, threads, isa or _isa)
    return counts


def count_changes(
    old: Tensor, new: Tensor, *, threads: int | None = None, isa: str | None = None
) -> tuple[int, int]:
    """Count the dropped and grown entries with the native kernel."""
    changes: tuple[int, int] | None = _module.count_changes(old, new, threads, isa or _isa)
    if changes is None:  # the masks have different orders in memory
        return count_changes(old.contiguous(), new.contiguous(), threads=threads, isa=isa)
    return changes


def uniform_(
    tensor: Tensor, key: int, first: int, *, threads: int | None = None, isa: str | None = None
) -> None:
    """Fill a tensor with the native kernel."""
    _module.uniform_(tensor, key, first, threads, isa or _isa)


def pool_blocks(
    tensor: Tensor,
    pooling: str = "sum",
    magnitude: bool = True,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> Tensor:
    """Pool the blocks of a tensor that has entries with the native kernel."""
    tensor = tensor.detach().contiguous()
    shape = tensor.shape[0], tensor.shape[2]
    if tensor.dtype == torch.bool:
        mask = tensor.new_empty(shape)
        _module.pool_mask(tensor, mask, threads, isa or _isa)
        return mask
    out = tensor.new_empty(shape, dtype=torch.float64)
    _module.pool_scores(tensor, pooling, magnitude, out, threads, isa or _isa)
    return out


def expand_blocks(
    chosen: Tensor, high: int, wide: int, *, threads: int | None = None, isa: str | None = None
) -> Tensor:
    """Expand the flags of blocks with the native kernel, which is the same for all `isa`."""
    out = chosen.new_empty(chosen.shape[0], high, chosen.shape[1], wide)
    _module.expand_blocks(chosen.contiguous(), out, threads)
    return out


def tabulate_squares(
    entries: Tensor,
    prefixes: Tensor,
    shift: int,
    width: int,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> Tensor:
    """Tabulate squares with the native kernel, which is the same for all `isa`."""
    table = prefixes.new_zeros(3, len(prefixes), 1 << width)
    _module.tabulate_squares(entries, prefixes.contiguous(), shift, width, table, threads)
    return table


def gather_squares(
    entries: Tensor, low: int, high: int, *, threads: int | None = None, isa: str | None = None
) -> Tensor:
    """Gather squares with the native kernel, which uses one thread."""
    out = torch.empty_like(entries)
    return out[: _module.gather_squares(entries, low, high, out, isa or _isa)].clone()
