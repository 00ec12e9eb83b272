"""Helpers for optimizers: wrapped optimizers, steps without hooks, unsupported optimizers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.optim import Optimizer

from sparsewright.errors import AttachError
from sparsewright.storage.states import inner_optimizers
from sparsewright.torch_private import has_step_hooks

BeforeStep = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Any]
AfterStep = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]


def family(optimizer: Optimizer) -> list[Optimizer]:
    """Return an optimizer and all optimizers that it wraps, outermost first.

    A wrapper (Lookahead, SAM, a trainer's optimizer) stores the optimizers that it wraps in its
    attributes.
    """
    found = [optimizer]
    for each in found:
        found += [inner for inner in inner_optimizers(each) if all(inner is not f for f in found)]
    return found


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the outermost optimizer that runs step hooks: the given one or one that it wraps.

    A wrapper whose `__init__` did not call `Optimizer.__init__` has no hooks, so the search
    continues with the optimizers that it wraps.

    Raises:
        AttachError: none of the optimizers has hooks.
    """
    own = next((each for each in family(optimizer) if has_step_hooks(each)), None)
    if own is None:
        name = type(optimizer).__name__
        raise AttachError(
            name,
            "its __init__ did not call Optimizer.__init__, so it has no step hooks; call "
            "Optimizer.__init__, or store the wrapped optimizer in an attribute",
        )
    return own


class StepHandle:
    """Call functions before and after each step of a wrapper that has no step hooks.

    The handle replaces the instance's attribute `step`, as PyTorch's schedulers do. A replacement
    on the class would affect all instances.

    Args:
        optimizer: the wrapper.
        before: called before each step, with the arguments of a step pre-hook.
        after: called after each step, with the arguments of a step post-hook.
    """

    def __init__(self, optimizer: Optimizer, before: BeforeStep, after: AfterStep) -> None:
        self._optimizer, self._is_on = weakref.ref(optimizer), True
        inner = vars(optimizer).get("step") or type(optimizer).step.__get__(optimizer)

        def step(itself: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if not self._is_on:
                return inner(*args, **kwargs)
            changed = before(itself, (itself, *args), kwargs)
            if changed is not None:
                (_, *args), kwargs = changed
            result = inner(*args, **kwargs)
            after(itself, (itself, *args), kwargs)
            return result

        # `step` refers to the handle, because the reverse would keep the optimizer alive.
        vars(step)["handle"] = self
        vars(optimizer)["step"] = MethodType(step, optimizer)

    def remove(self) -> None:
        """Restore the original `step`."""
        self._is_on = False
        optimizer = self._optimizer()
        if optimizer is None:
            return
        own = vars(optimizer).get("step")
        if getattr(own, "handle", None) is self:
            del optimizer.step


def why_not_follow(optimizer: Optimizer) -> str:
    """Return why an optimizer cannot train sparse weights; "" if it can."""
    if isinstance(optimizer, torch.optim.SparseAdam):
        return (
            "it supports only sparse gradients, and the gradients of masked weights are dense; use "
            "Adam with Embedding(sparse=False)"
        )
    return ""


def params_of(optimizer: Optimizer) -> list[int]:
    """Return the ids of the parameters that an optimizer steps, in order."""
    return [id(param) for group in optimizer.param_groups for param in group["params"]]
