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


def saved_states(state: TrainerState) -> dict[str, Any]:
    """Return what `trainer_state.json` keeps of callbacks, by name, though annotated as a list."""
    states: dict[str, Any] = vars(state)["stateful_callbacks"]
    return states
