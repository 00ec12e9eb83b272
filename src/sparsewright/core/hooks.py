"""The user's hooks: functions that are told what a run does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.hooks import RemovableHandle

from sparsewright.core.errors import OptionTypeError


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


class HandleGroup:
    """Several handles as one."""

    def __init__(self, handles: list[Removable]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Remove them all."""
        for handle in self._handles:
            handle.remove()
