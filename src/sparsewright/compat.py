"""For programs that call `optimizer.apply(sparsity)`.

Importing this module gives `torch.optim.Optimizer` the method `apply`; `uninstall()` takes it back.
Nothing else in sparsewright changes torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

__all__ = ["install", "uninstall"]


def _apply(self: Optimizer, fn: Callable[[Optimizer], Any]) -> Optimizer:
    """Call `fn(optimizer)` and return the optimizer, as `nn.Module.apply` does for modules."""
    fn(self)
    return self


def install() -> None:
    """Give `torch.optim.Optimizer` the method `apply(fn)`. Importing the module does it."""
    # This module exists to add the method, so the type of torch cannot know it.
    Optimizer.apply = _apply  # type: ignore[attr-defined]


def uninstall() -> None:
    """Take the method away again."""
    if getattr(Optimizer, "apply", None) is _apply:
        del Optimizer.apply  # type: ignore[attr-defined]


install()
