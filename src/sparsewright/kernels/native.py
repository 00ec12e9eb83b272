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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sparsewright.kernels.reference import raise_nan

_ABI = 3
_PLAIN = frozenset({Tensor, torch.nn.Parameter, torch.nn.Buffer})
_ITEMSIZE = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 4, torch.float64: 8}
_FORMAT = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}

# Starting and joining a thread costs 30-50 us, a pass over cached memory 15 us per MB: threads are
# picked above this size, where every pass goes to memory. A thread count given is obeyed.
_THREADED_BYTES = 16 << 20

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


def info() -> dict[str, Any]:
    """Which kernels are active and why others are not.

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


def _pick_threads(threads: int | None, num_bytes: int) -> int:
    if threads is not None:
        return threads
    return torch.get_num_threads() if num_bytes >= _THREADED_BYTES else 1


def note_fallback(operation: str, reason: str) -> None:
    """Count a call that took the reference, by reason."""
    _fallbacks[operation, reason] += 1


def _against(tensor: Tensor) -> str | None:
    """Why the memory of `tensor` must not be handed to native code."""
    if _module is None:
        return _why_not
    if type(tensor) not in _PLAIN:
        return f"{type(tensor).__name__} is a tensor subclass"
    if not tensor.is_cpu:
        return f"a tensor is on {tensor.device.type}"
    if tensor.layout is not torch.strided:
        return f"a tensor has layout {tensor.layout}"
    return None


def _same_dense_layout(a: Tensor, b: Tensor) -> bool:
    """Both fill one block of memory, without gaps or overlap, in the same order."""
    if a.stride() != b.stride():
        return False
    expected = 1
    for stride, size in sorted(zip(a.stride(), a.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def against_prune(tensor: Tensor, mask: Tensor) -> str | None:
    """Why prune_ cannot take this pair, or None. Tensors that share memory are not looked for."""
    if (  # the common pair in one expression: 0.7 us, a third of a call on a small tensor
        _module is not None
        and type(tensor) in _PLAIN
        and type(mask) in _PLAIN
        and tensor.is_cpu
        and mask.is_cpu
        and tensor.layout is mask.layout is torch.strided
        and tensor.dtype in _ITEMSIZE
        and mask.dtype is torch.bool
        and tensor.shape == mask.shape
        and tensor.is_contiguous()
        and mask.is_contiguous()
        and not tensor.is_inference()
    ):
        return None
    return _against(tensor) or _against(mask) or _against_pair(tensor, mask)


def _against_pair(tensor: Tensor, mask: Tensor) -> str | None:
    if tensor.dtype not in _ITEMSIZE or mask.dtype is not torch.bool:
        return f"dtypes {tensor.dtype} and {mask.dtype}"
    if tensor.shape != mask.shape:
        return "shapes differ"
    if not (tensor.is_contiguous() and mask.is_contiguous()) and not _same_dense_layout(
        tensor, mask
    ):
        return "not one dense block in the same order"
    return "an inference tensor" if tensor.is_inference() else None


def prune_(
    tensor: Tensor, mask: Tensor, *, threads: int | None = None, isa: str | None = None
) -> None:
    """Native `prune_`; `against_prune` found nothing against it."""
    numel, itemsize = tensor.numel(), _ITEMSIZE[tensor.dtype]
    threads = _pick_threads(threads, numel * itemsize)
    _module.prune_(tensor.data_ptr(), mask.data_ptr(), numel, itemsize, threads, isa or _isa)
    increment_version(tensor)


def prune_many_(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> None:
    """Native `prune_many_`, one call for all pairs."""
    items = [
        (tensor.data_ptr(), mask.data_ptr(), tensor.numel(), _ITEMSIZE[tensor.dtype])
        for tensor, mask in zip(tensors, masks, strict=True)
    ]
    threads = _pick_threads(threads, sum(numel * size for _, _, numel, size in items))
    _module.prune_many_(items, threads, isa or _isa)
    increment_version(tensors)


def against_select(score: Tensor, among: Tensor | None) -> str | None:
    """Why select cannot take these (already checked to fit each other), or None."""
    reason = _against(score) or (_against(among) if among is not None else None)
    if reason is None and score.is_neg():
        return "a lazily negated view"
    return reason


def select(
    score: Tensor,
    num: Tensor,
    among: Tensor | None = None,
    magnitude: bool = True,
    *,
    threads: int | None = None,
    isa: str | None = None,
) -> Tensor:
    """`num` is int64 [rows], contiguous, on the CPU (`reference.check_select` makes it so)."""
    score = score.contiguous()
    among = None if among is None else among.contiguous()
    mask = score.new_empty(score.shape, dtype=torch.bool)
    nan_row = _module.select(
        score.data_ptr(),
        _FORMAT[score.dtype],
        *score.shape,
        num.data_ptr(),
        0 if among is None else among.data_ptr(),
        mask.data_ptr(),
        magnitude,
        _pick_threads(threads, score.nbytes),
        isa or _isa,
    )
    if nan_row >= 0:
        raise_nan(nan_row)
    return mask


def against_count(mask: Tensor) -> str | None:
    """Why count_rows cannot take this mask, or None."""
    reason = _against(mask)
    if reason is None and mask.dtype is not torch.bool:
        return f"dtype {mask.dtype}"
    return reason


def count_rows(mask: Tensor, *, threads: int | None = None, isa: str | None = None) -> Tensor:
    """Native `count_rows`; int64 `[rows]`."""
    mask = mask.contiguous()
    counts = mask.new_empty(mask.shape[0], dtype=torch.int64)
    _module.count_rows(
        mask.data_ptr(),
        *mask.shape,
        counts.data_ptr(),
        _pick_threads(threads, mask.nbytes),
        isa or _isa,
    )
    return counts


def against_changes(old: Tensor, new: Tensor) -> str | None:
    """Why count_changes cannot take these masks, or None."""
    reason = against_count(old) or against_count(new)
    if reason is None and old.shape != new.shape:
        return "shapes differ"
    return reason


def count_changes(
    old: Tensor, new: Tensor, *, threads: int | None = None, isa: str | None = None
) -> tuple[int, int]:
    """Native `count_changes`."""
    if not _same_dense_layout(old, new):
        old, new = old.contiguous(), new.contiguous()
    threads = _pick_threads(threads, old.nbytes)
    changes: tuple[int, int] = _module.count_changes(
        old.data_ptr(), new.data_ptr(), old.numel(), threads, isa or _isa
    )
    return changes


def against_uniform(tensor: Tensor) -> str | None:
    """Why uniform_ cannot fill this tensor (already checked), or None."""
    return _against(tensor)


def uniform_(
    tensor: Tensor, key: int, first: int, *, threads: int | None = None, isa: str | None = None
) -> None:
    """Native `uniform_`; `against_uniform` found nothing against it."""
    threads = _pick_threads(threads, tensor.nbytes)
    _module.uniform_(tensor.data_ptr(), tensor.numel(), key, first, threads, isa or _isa)
    increment_version(tensor)


def module() -> Any:
    """The compiled module, or None."""
    return _module


def isa() -> str:
    """The instruction set that is used."""
    return _isa
