"""What the integrations need of trainers that these do not document, one function each.

A new trainer breaks this file only. Each function has a test in
`tests/integrations/test_trainer_private.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from transformers import TrainerState


def after_hook(module: LightningModule, hook: str, then: Callable[[], None]) -> None:
    """Call a function once, after Lightning's next call of one of the module's own hooks."""
    forget_hooks(module, hook)  # of a run that ended before the hook was called
    own = getattr(module, hook)

    def both(*args: Any, **kwargs: Any) -> None:
        forget_hooks(module, hook)
        own(*args, **kwargs)
        then()

    setattr(module, hook, both)


def forget_hooks(module: LightningModule, *hooks: str) -> None:
    """Undo `after_hook`."""
    for hook in hooks:
        vars(module).pop(hook, None)


def log_interval(trainer: Trainer) -> int:
    """Return the steps between two logs of Lightning, which its class does not declare."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every


def logged_step(trainer: Trainer) -> int:
    """Return the step at which Lightning logs; with several optimizers it is not `global_step`."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def why_not_average(callback: object, module: LightningModule) -> str:
    """Return why a sparse module does not survive a callback's average of it; "" if it does.

    Lightning's callbacks pair the parameters and buffers of module and average by position.
    """
    average: Any = getattr(callback, "_average_model", None)
    if not isinstance(average, nn.Module):
        return ""
    copied = average.module if isinstance(average, AveragedModel) else average
    if [p.shape for p in copied.parameters()] != [p.shape for p in module.parameters()]:
        return "it copied the weights before they were compressed; apply the algorithm before fit"
    return _why_not_pair(average, module) if isinstance(average, AveragedModel) else ""


def _why_not_pair(average: AveragedModel, module: nn.Module) -> str:
    """Return why buffers, which masks are, cannot be paired; "" if they can."""
    own, averaged = list(module.buffers()), list(average.module.buffers())
    if average.use_buffers and any(buffer.dtype == torch.bool for buffer in averaged):
        return "it averages buffers, and masks are buffers; give it use_buffers=False"
    masks = sum(buffer.dtype == torch.bool for buffer in own)
    if len(averaged) != len(own) and (len(own) > masks or not average.use_buffers):
        return (
            "it copied the module before there were masks, which are buffers; apply the algorithm "
            "before fit, and give it use_buffers=False"
        )
    return ""


def saved_state(state: TrainerState, key: str) -> dict[str, Any] | None:
    """Return what `trainer_state.json` had under a name; None if it had nothing."""
    found = _callbacks_of(state).get(key)
    return found if isinstance(found, dict) else None


def save_later(state: TrainerState, key: str, make: Callable[[], dict[str, Any]]) -> None:
    """Let `trainer_state.json` have, whenever it is written, what a function then returns."""
    _callbacks_of(state)[key] = _Later(make)


class _Later:
    """A value that is made when it is copied, as `TrainerState.save_to_json` does by `asdict`."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self._make()


def _callbacks_of(state: TrainerState) -> dict[str, Any]:
    """The states of callbacks by name, though they are annotated as a list."""
    states: dict[str, Any] = vars(state)["stateful_callbacks"]
    return states
