"""Support for programs that call `optimizer.apply(sparsity)`.

Importing this module adds the method `apply` to `torch.optim.Optimizer`, and `uninstall()` removes
it. No other module of sparsewright changes torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

__all__ = ["install", "uninstall"]

_Patched: Any = Optimizer  # torch does not declare the method that this module adds


def _apply(self: Optimizer, fn: Callable[[Optimizer], Any]) -> Optimizer:
    """Call `fn(optimizer)` and return the optimizer, as `nn.Module.apply` does for modules."""
    fn(self)
    return self


def install() -> None:
    """Add the method `apply(fn)` to `torch.optim.Optimizer`, as importing this module does."""
    _Patched.apply = _apply


def uninstall() -> None:
    """Remove the method `apply` from `torch.optim.Optimizer`."""
    if getattr(Optimizer, "apply", None) is _apply:
        del _Patched.apply


install()
