"""What looks after a weight that is dense while an optimizer steps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sparsewright import kernels
from sparsewright.formats.names import MASK_SUFFIX


class Guard:
    """Ends a step that raised, as soon as the module is called or saved.

    An optimizer tells nobody that its step raised. A copy or a pickle of the module prunes its
    weight once.

    Args:
        module: the module that owns the weight.
        param_name: name of the Parameter in it.
        end: takes out what only the optimizer may see.
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
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def __reduce__(self) -> tuple[type[PrunesOnce], tuple[str]]:
        return PrunesOnce, (self._param_name,)


class PrunesOnce:
    """The guard of a copy, which has no step to end."""

    def __init__(self, param_name: str) -> None:
        self._param_name, self._is_done = param_name, False

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """Prune the weight."""
        if not self._is_done:
            mask = module.get_buffer(self._param_name + MASK_SUFFIX)
            kernels.prune_(module.get_parameter(self._param_name).data, mask)
            self._is_done = True
