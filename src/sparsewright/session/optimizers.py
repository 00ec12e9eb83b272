"""What a session knows of optimizers."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from sparsewright.errors import AttachError
from sparsewright.torch_private import has_step_hooks

# With zero weight and zero gradient these leave zero state at zero (exact types: a subclass may
# not), so their state needs pruning only when the mask changes.
_KEEPS_ZERO_STATE = frozenset(
    (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Adadelta,
    )
)


def keeps_zero_state(optimizer: Optimizer) -> bool:
    """Return whether an optimizer leaves the state of a pruned connection at zero by itself."""
    return type(optimizer) in _KEEPS_ZERO_STATE


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer whose hooks can be used: that inside of a wrapper that has none.

    Raises:
        AttachError: there is none inside.
    """
    while not has_step_hooks(optimizer):
        inner = vars(optimizer).get("optimizer")
        if not isinstance(inner, Optimizer):
            name = type(optimizer).__name__
            raise AttachError(name, "its __init__ did not call Optimizer.__init__; it has no hooks")
        optimizer = inner
    return optimizer


def params_of(optimizer: Optimizer) -> list[int]:
    """Return the ids of the parameters that an optimizer steps, in order."""
    return [id(param) for group in optimizer.param_groups for param in group["params"]]
