"""What the integrations need of trainers that these do not document, one function each.

A new trainer breaks this file only. Each function has a test in
`tests/integrations/test_trainer_private.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
