"""Hooks that hide a weight's pruned entries again after an optimizer step that raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sparsewright import kernels
from sparsewright.formats.names import MASK_SUFFIX


class Guard:
    """End an optimizer step that raised, as soon as the module is called or saved.

    PyTorch has no hook for an optimizer step that raises. A copied or pickled module gets a
    `PrunesOnce` hook instead, which prunes the weight once.

    Args:
        module: module that owns the weight.
        param_name: the Parameter's name in the module.
        end: function that removes what only the optimizer may see.
    """

    def __init__(self, module: nn.Module, param_name: str, end: Callable[[], None]) -> None:
        self._param_name, self._end = param_name, end
        self._handles = [
            module.register_forward_pre_hook(self),
            module.register_state_dict_pre_hook(self),
        ]

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """End the step."""
        self._end()

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __reduce__(self) -> tuple[type[PrunesOnce], tuple[str]]:
        return PrunesOnce, (self._param_name,)


class PrunesOnce:
    """Prune a copied module's weight once; the copy has no optimizer step to end."""

    def __init__(self, param_name: str) -> None:
        self._param_name, self._is_done = param_name, False

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """Prune the weight."""
        if not self._is_done:
            mask = module.get_buffer(self._param_name + MASK_SUFFIX)
            kernels.prune_(module.get_parameter(self._param_name).data, mask)
            self._is_done = True
