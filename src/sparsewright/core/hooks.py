"""The user's hooks: functions that are told what a run does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import OptionTypeError
from sparsewright.events import MaskUpdate

SparsityHook = Callable[[Any, str, Tensor], Any]
MaskUpdateHook = Callable[[MaskUpdate], Any]


class Removable(Protocol):
    """A handle."""

    def remove(self) -> None:
        """Take off what the handle stands for."""


class Hooks:
    """Functions registered by kind, called in the order of registering. Copies start empty."""

    def __init__(self) -> None:
        self._hooks: dict[str, OrderedDict[int, Callable[..., Any]]] = {}

    def register(self, kind: str, hook: Callable[..., Any]) -> RemovableHandle:
        """Add a hook; the handle's `.remove()` takes it off.

        Raises:
            OptionTypeError: not a function.
        """
        if not callable(hook):
            raise OptionTypeError(f"{kind} hook", hook, "a function")
        hooks = self._hooks.setdefault(kind, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def has(self, kind: str) -> bool:
        """Whether anybody listens."""
        return bool(self._hooks.get(kind))

    def call(self, kind: str, *args: Any) -> None:
        """Call every hook of a kind."""
        for hook in list(self._hooks.get(kind, {}).values()):
            hook(*args)

    def __reduce__(self) -> tuple[type[Hooks], tuple[()]]:
        return type(self), ()


class Observed:
    """What users may watch: each `register_...` returns a handle whose `.remove()` takes it off."""

    def __init__(self) -> None:
        self._hooks = Hooks()

    def register_target_sparsity_hook(self, hook: SparsityHook) -> Removable:
        """Call `hook(sparsity, name, target)` after each step, once per distinct schedule.

        `name` is the common prefix of the names of the parameters that share the schedule, and `*`;
        `target` a 0-d tensor, 0..1.
        """
        return self._hooks.register("target", hook)

    def register_computed_sparsity_hook(self, hook: SparsityHook) -> Removable:
        """Call `hook(sparsity, name, computed)` after each step, once per parameter.

        `computed` is the fraction pruned as measured from the mask, a 0-d tensor, 0..1.
        """
        return self._hooks.register("computed", hook)

    def register_mask_update_hook(self, hook: MaskUpdateHook) -> Removable:
        """Call `hook(MaskUpdate)` for each parameter whose mask was updated."""
        return self._hooks.register("mask", hook)


class HandleGroup:
    """Several handles as one."""

    def __init__(self, handles: list[Removable]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Remove them all."""
        for handle in self._handles:
            handle.remove()
