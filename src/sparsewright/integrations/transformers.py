"""Callback for sparse training with the Trainer of Hugging Face transformers.

::

    from sparsewright.integrations.transformers import SparsityCallback

    trainer = transformers.Trainer(model, args, callbacks=[SparsityCallback(sparsity)], ...)
    trainer.train()
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.hooks import Removable
from sparsewright.errors import AttachError, StateError, needs
from sparsewright.integrations import follow_only, is_attached, prune_weights
from sparsewright.integrations.trainer_private import save_later, saved_state
from sparsewright.metrics import log_metrics

with needs("SparsityCallback", "transformers", extra="transformers"):
    import safetensors.torch
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["SparsityCallback"]

_KEY = "sparsity"


class SparsityCallback(TrainerCallback):
    """Apply a sparsity algorithm, save and restore its state, and log its metrics.

    The callback sparsifies the model when the Trainer is created, which is before the Trainer
    creates the optimizer, and the optimizer when training starts. A checkpoint stores the masks in
    `model.safetensors` and the algorithm's state in `trainer_state.json` under
    `stateful_callbacks`, so `resume_from_checkpoint` resumes exactly where the run stopped. That
    file also stores the dense shadows of weights (used by STE, for example) as base64. The total
    scalars of `log_metrics` are added to each log of the training loss, in `log_history` and on
    the console. To log the scalars of each weight, use `log_metrics(sparsity, wandb.log)`.

    `from_pretrained` reports the masks of such a checkpoint as unexpected keys, and loads the
    weights with their zeros. Call `sparsity.remove()` before `save_pretrained` to leave the masks
    out of the file. `Static(0.5, init_method="from_zeros")` restores masks from the zeros.

    Args:
        sparsity: the algorithm, or a Group. If it is already applied to the model, it stays
            applied.
    """

    def __init__(self, sparsity: SparsityAlgorithm) -> None:
        self.sparsity = sparsity
        self._start = sparsity.state_dict()
        self._logging: Removable | None = None
        self._scalars: dict[str, float] = {}
        self._every, self._ahead = 1, 0

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sparsify the model.

        Raises:
            AttachError: the Trainer shards parameters.
        """
        if args.fsdp or args.deepspeed:
            name = "fsdp" if args.fsdp else "deepspeed"
            raise AttachError(
                name, "it shards weights, which this callback does not support; use DDP"
            )
        if not is_attached(self.sparsity, kwargs["model"]):
            self.sparsity.apply(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load the state of a checkpoint, follow the optimizer, and start logging.

        Raises:
            AttachError: training resumes with a model from `model_init`, which has lost its masks.
            StateError: the checkpoint has the state of another algorithm.
        """
        if not is_attached(self.sparsity, kwargs["model"]):
            self._start_again(kwargs["model"], state)
        saved = saved_state(state, _KEY)
        if saved is not None:
            self.sparsity.load_state_dict(_from_json(saved))
        follow_only(self.sparsity, [kwargs["optimizer"]])
        self._every = max(1, state.logging_steps) if args.logging_strategy == "steps" else 1
        self._follow(state)

    def _follow(self, state: TrainerState) -> None:
        """Compute the scalars at the steps that the Trainer logs, and at few others.

        The algorithm's step count differs from the Trainer's: it includes earlier runs and excludes
        steps that a gradient scaler skips.
        """
        self._stop_logging()
        self._ahead = state.global_step - self.sparsity.step
        every = math.gcd(self._every, self._ahead)
        self._logging = log_metrics(self.sparsity, self._keep_totals, every=every)

    def _start_again(self, model: nn.Module, state: TrainerState) -> None:
        """Sparsify the new model that `model_init` made, from the initial state."""
        if state.global_step:
            problem = "its masks were not loaded; to resume, pass model=model_init() to the Trainer"
            raise AttachError("the model of model_init", problem)
        self.sparsity.remove()
        self.sparsity.load_state_dict(self._start)
        self.sparsity.apply(model)

    def _keep_totals(self, scalars: dict[str, float], step: int) -> None:
        """Record the scalars that are totals over all weights."""
        self._scalars.update({k: v for k, v in scalars.items() if k.count("/") == 1})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Provide the state for a checkpoint after this step, and follow skipped steps."""
        save_later(state, _KEY, lambda: _to_json(self.sparsity.state_dict()))
        if state.global_step - self.sparsity.step != self._ahead:
            self._follow(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the scalars to a log of the training loss."""
        if "loss" in kwargs["logs"]:
            kwargs["logs"].update(self._scalars)
            state.log_history[-1].update(self._scalars)
            self._scalars.clear()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prune weights that others may have written, and stop logging; the model stays sparse."""
        prune_weights(self.sparsity)
        self._stop_logging()

    def _stop_logging(self) -> None:
        """Stop logging, if it was started."""
        if self._logging is not None:
            self._logging.remove()
            self._logging = None


def _to_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an algorithm's state with its shadows as text."""
    shown = dict(state)
    if "algorithms" in state:
        shown["algorithms"] = [_to_json(each) for each in state["algorithms"]]
    if "shadows" in state:
        shadows = {name: shadow.contiguous() for name, shadow in state["shadows"].items()}
        shown["shadows"] = base64.b64encode(safetensors.torch.save(shadows)).decode()
    return shown


def _from_json(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inverse of `_to_json`; `load_state_dict` rejects other malformed values.

    Raises:
        StateError: the text of the shadows is damaged.
    """
    state = dict(shown)
    if isinstance(state.get("algorithms"), list):
        every = state["algorithms"]
        state["algorithms"] = [_from_json(s) if isinstance(s, Mapping) else s for s in every]
    if isinstance(state.get("shadows"), str):
        try:
            packed = base64.b64decode(state["shadows"], validate=True)
            state["shadows"] = safetensors.torch.load(packed)
        except (binascii.Error, safetensors.SafetensorError) as error:
            raise StateError(
                "the shadows", f"they are not valid base64 of safetensors: {error}"
            ) from None
    return state
