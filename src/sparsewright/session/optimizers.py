"""What a session knows of optimizers."""

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
    """Return an optimizer and those that it is around, the outermost first.

    Those inside are among its attributes (Lookahead, SAM, a trainer's wrapper).
    """
    found = [optimizer]
    for each in found:
        found += [inner for inner in inner_optimizers(each) if all(inner is not f for f in found)]
    return found


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the outermost of an optimizer and those that it is around that runs step hooks.

    A wrapper whose `__init__` did not call that of `Optimizer` leaves the step to another one.

    Raises:
        AttachError: there is none.
    """
    own = next((each for each in family(optimizer) if has_step_hooks(each)), None)
    if own is None:
        name = type(optimizer).__name__
        raise AttachError(name, "its __init__ did not call Optimizer.__init__; it has no hooks")
    return own


class StepHandle:
    """What runs around the step of a wrapper that has no hooks: its attribute `step` is another.

    Torch's schedulers do the same. Not a hook on its class, which would ask for hooks on all.

    Args:
        optimizer: the wrapper.
        before: called before each step, as a step pre hook is.
        after: called after it.
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

        vars(step)["handle"] = self  # not the other way round: that would keep the optimizer alive
        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Leave the step alone again."""
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
            "it steps only the rows of an embedding that a sparse gradient names, and masks make "
            "gradients dense; use Adam, and Embedding(sparse=False)"
        )
    return ""


def params_of(optimizer: Optimizer) -> list[int]:
    """Return the ids of the parameters that an optimizer steps, in order."""
    return [id(param) for group in optimizer.param_groups for param in group["params"]]
