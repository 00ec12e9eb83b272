"""Access to undocumented parts of the trainers, one function for each.

A new version of a trainer can break only this file. `tests/integrations/test_trainer_private.py`
tests each function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from transformers import TrainerState


def after_hook(module: LightningModule, hook: str, then: Callable[[], None]) -> None:
    """Call a function once, after Lightning's next call to one of the module's hooks."""
    forget_hooks(module, hook)  # left from a run that ended before the hook was called
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


def log_interval(trainer: Any) -> int:
    """Return the number of steps between the logs of a Lightning Trainer.

    `Trainer` does not declare this attribute.
    """
    every: int = trainer.log_every_n_steps
    return every


def callbacks_of(trainer: Any) -> list[Callback]:
    """Return the callbacks of a Lightning Trainer, which does not declare this attribute."""
    callbacks: list[Callback] = trainer.callbacks
    return callbacks


def logged_step(trainer: Trainer) -> int:
    """Return Lightning's logging step, which differs from `global_step` for several optimizers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def why_not_average(callback: object, module: LightningModule) -> str:
    """Return why a callback that averages weights does not work with a sparse module, or "".

    Lightning's callbacks pair the module's and the average's parameters and buffers by position.
    """
    average: Any = getattr(callback, "_average_model", None)
    if not isinstance(average, nn.Module):
        return ""
    copied = average.module if isinstance(average, AveragedModel) else average
    if [p.shape for p in copied.parameters()] != [p.shape for p in module.parameters()]:
        return "it copied the weights before they were compressed; apply the algorithm before fit"
    return _why_not_pair(average, module) if isinstance(average, AveragedModel) else ""


def _why_not_pair(average: AveragedModel, module: nn.Module) -> str:
    """Return why the buffers, including masks, cannot be paired, or ""."""
    own, averaged = list(module.buffers()), list(average.module.buffers())
    if average.use_buffers and any(buffer.dtype == torch.bool for buffer in averaged):
        return "it averages buffers, and masks are buffers; pass use_buffers=False to it"
    masks = sum(buffer.dtype == torch.bool for buffer in own)
    if len(averaged) != len(own) and (len(own) > masks or not average.use_buffers):
        return (
            "it copied the module before the masks, which are buffers, were added; apply the "
            "algorithm before fit, and pass use_buffers=False to the callback"
        )
    return ""


def saved_state(state: TrainerState, key: str) -> dict[str, Any] | None:
    """Return the state that `trainer_state.json` has under a key, or None."""
    found = _callbacks_of(state).get(key)
    return found if isinstance(found, dict) else None


def save_later(state: TrainerState, key: str, make: Callable[[], dict[str, Any]]) -> None:
    """Store a function's result in `trainer_state.json`, computed whenever the file is written."""
    _callbacks_of(state)[key] = _Later(make)


class _Later:
    """A value that is computed when `TrainerState.save_to_json` copies it with `asdict`."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self._make()


def _callbacks_of(state: TrainerState) -> dict[str, Any]:
    """Return the states of callbacks by name; their annotation wrongly says list."""
    states: dict[str, Any] = vars(state)["stateful_callbacks"]
    return states
