"""What a session knows of optimizers."""

from __future__ import annotations

from weakref import WeakSet

import torch
from torch.optim import Optimizer

from sparsewright.errors import AttachError
from sparsewright.storage.states import inner_optimizers
from sparsewright.torch_private import complete_hooks, has_step_hooks

_WRAPPERS: WeakSet[Optimizer] = WeakSet()


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
    own = next((each for each in family(optimizer) if steps_itself(each)), None)
    if own is None:
        name = type(optimizer).__name__
        raise AttachError(name, "its __init__ did not call Optimizer.__init__; it has no hooks")
    return own


def steps_itself(optimizer: Optimizer) -> bool:
    """Return whether a call of an optimizer's `step` is a step, and not left to one inside."""
    return has_step_hooks(optimizer) and optimizer not in _WRAPPERS


def make_hookable(optimizer: Optimizer) -> None:
    """Let step hooks be registered on an optimizer, a wrapper that has none too."""
    if not steps_itself(optimizer):
        _WRAPPERS.add(optimizer)
    complete_hooks(optimizer)


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
