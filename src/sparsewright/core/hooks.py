"""User hooks: functions that the library calls during training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import OptionTypeError
from sparsewright.events import MaskUpdate

A = TypeVar("A")

SparsityHook = Callable[[A, str, Tensor], object]
"""A function `(algorithm, name, level)`; its return value is ignored."""

MaskUpdateHook = Callable[[MaskUpdate], object]
"""A function `(update)`; its return value is ignored."""


class Removable(Protocol):
    """Handle that undoes a registration."""

    def remove(self) -> None:
        """Undo the registration."""


class Hooks:
    """Hold hooks by kind and call them in the order of registration. Copies have no hooks."""

    def __init__(self) -> None:
        self._hooks: dict[str, OrderedDict[int, Callable[..., object]]] = {}

    def register(self, kind: str, hook: Callable[..., object]) -> RemovableHandle:
        """Register a hook and return a handle; its `.remove()` removes the hook.

        Raises:
            OptionTypeError: `hook` is not callable.
        """
        if not callable(hook):
            raise OptionTypeError("hook", hook, "a function")
        hooks = self._hooks.setdefault(kind, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def has(self, kind: str) -> bool:
        """Return whether a hook of this kind is registered."""
        return bool(self._hooks.get(kind))

    def call(self, kind: str, *args: object) -> None:
        """Call every hook of this kind."""
        for hook in list(self._hooks.get(kind, {}).values()):
            hook(*args)

    def __reduce__(self) -> tuple[type[Hooks], tuple[()]]:
        return type(self), ()


class Observed(Generic[A]):
    """Register hooks. Each `register_...` returns a handle; its `.remove()` removes the hook.

    `A` is the type of the algorithm that the hooks receive.
    """

    def __init__(self) -> None:
        self._hooks = Hooks()

    def register_target_sparsity_hook(self, hook: SparsityHook[A]) -> Removable:
        """Call `hook(sparsity, name, target)` after each step, once per distinct schedule.

        `name` is the common prefix of the parameters that share the schedule, followed by `*`.
        `target` is a 0-d tensor, 0..1.
        """
        return self._hooks.register("target", hook)

    def register_computed_sparsity_hook(self, hook: SparsityHook[A]) -> Removable:
        """Call `hook(sparsity, name, computed)` after each step, once per parameter.

        `computed` is the fraction pruned, measured from the mask: a 0-d tensor, 0..1.
        """
        return self._hooks.register("computed", hook)

    def register_mask_update_hook(self, hook: MaskUpdateHook) -> Removable:
        """Call `hook(MaskUpdate)` for each parameter whose mask was updated."""
        return self._hooks.register("mask", hook)


class HandleGroup:
    """Combine several handles into one."""

    def __init__(self, handles: list[Removable]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Call `remove` on every handle."""
        for handle in self._handles:
            handle.remove()
