"""The binding of the compiled kernels: what they take, and why they were not picked.

Environment, read once at import:
    SPARSEWRIGHT_KERNELS  "reference" switches the compiled kernels off; "auto" is the default.
    SPARSEWRIGHT_ISA      "portable", "avx2" or "avx512" instead of the best the CPU has.
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

from sparsewright.kernels.reference import raise_nan

_ABI = 4

_fallbacks: Counter[tuple[str, str]] = Counter()


def _load() -> tuple[ModuleType | None, str, str]:
    """(module, isa, why not): an absent module is quiet, a broken one or a bad option warns."""
    wanted = os.environ.get("SPARSEWRIGHT_KERNELS", "auto")
    if wanted == "reference":
        return None, "", "switched off by SPARSEWRIGHT_KERNELS=reference"
    if wanted != "auto":
        warnings.warn(
            f"SPARSEWRIGHT_KERNELS={wanted!r} is ignored (known: auto, reference)", stacklevel=2
        )
    name = f"{__package__}._native"
    if importlib.util.find_spec(name) is None:
        return None, "", "the extension is not installed (built without a C++ compiler)"
    try:
        module = importlib.import_module(name)
        if module.abi != _ABI:
            raise ImportError(f"{module.__file__} is of another version: rebuild it")
    except (ImportError, OSError, AttributeError, RuntimeError, SystemError) as error:
        why = f"the extension is present but broken: {error}"
        warnings.warn(f"{why}; the plain torch kernels are used", RuntimeWarning, stacklevel=2)
        return None, "", why
    isa = os.environ.get("SPARSEWRIGHT_ISA", "auto")
    try:
        return module, module.resolve_isa(isa), ""
    except ValueError as error:
        warnings.warn(f"SPARSEWRIGHT_ISA is ignored: {error}", RuntimeWarning, stacklevel=2)
        return module, module.best_isa(), ""


_loaded, _isa, _why_not = _load()
_module: Any = _loaded


class Info(TypedDict):
    """The facts that `info` returns."""

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
    """Return which kernels are active and why others are not.

    Returns:
        A dict with `active` ("native" or "reference"), `why_not` (the reason where native is not
        active, else ""), `isa` and `best_isa`, `compiler`, `path` (of the library), `threads`,
        `cpu` (torch's name for the capability), and `fallbacks`, `{"operation: reason": calls since
        import}`.
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
    """Return the instruction set that is used."""
    return _isa


def note_fallback(operation: str, reason: str) -> None:
    """Count a call that took the reference, by reason."""
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


# From here on `threads` None is torch's number of threads from 16 MiB on, else 1.


def prune_(
    tensor: Tensor, mask: Tensor, *, threads: int | None = None, isa: str | None = None
) -> str:
    """Prune natively; return "", or why nothing was done."""
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
    """Prune all pairs natively; return {}, or why nothing was done: index of a pair -> reason."""
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
    """Select natively; `num` is as `reference.check_select` returns it."""
    score = score.contiguous()
    among = None if among is None else among.contiguous()
    mask = score.new_empty(score.shape, dtype=torch.bool)
    nan_row = _module.select(score, num, among, mask, magnitude, threads, isa or _isa)
    if nan_row >= 0:
        raise_nan(nan_row)
    return mask


def count_rows(mask: Tensor, *, threads: int | None = None, isa: str | None = None) -> Tensor:
    """Count natively; int64 `[rows]`."""
    counts = mask.new_empty(mask.shape[0], dtype=torch.int64)
    _module.count_rows(mask.contiguous(), counts, threads, isa or _isa)
    return counts


def count_changes(
    old: Tensor, new: Tensor, *, threads: int | None = None, isa: str | None = None
) -> tuple[int, int]:
    """Count natively what was dropped and grown."""
    changes: tuple[int, int] | None = _module.count_changes(old, new, threads, isa or _isa)
    if changes is None:  # their entries do not lie in the same order
        return count_changes(old.contiguous(), new.contiguous(), threads=threads, isa=isa)
    return changes


def uniform_(
    tensor: Tensor, key: int, first: int, *, threads: int | None = None, isa: str | None = None
) -> None:
    """Fill natively."""
    _module.uniform_(tensor, key, first, threads, isa or _isa)
