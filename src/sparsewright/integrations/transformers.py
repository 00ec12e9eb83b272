"""Sparse training with the Trainer of Hugging Face transformers: one callback.

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
    """Applies a sparsity algorithm, saves and restores it, and logs what it does.

    The model is sparsified when the Trainer is made, before its optimizer is; the optimizer when
    training begins. A checkpoint has the masks in `model.safetensors` and the algorithm's state,
    under `stateful_callbacks`, in `trainer_state.json`, so `resume_from_checkpoint` goes on exactly
    where the run stopped. The shadows of weights that are trained dense (by STE, for one)
    are in that file too, as base64. The overall scalars of `log_metrics` join each log of the
    training loss (in `log_history`, on the console); `log_metrics(sparsity, wandb.log)` logs every
    weight's.

    `from_pretrained` of such a checkpoint reports the masks as unexpected, and loads the weights
    with their zeros. `sparsity.remove()` before `save_pretrained` leaves the masks out of the file;
    `Static(0.5, init_method="from_zeros")` makes masks of the zeros again.

    Args:
        sparsity: the algorithm, or a Group. One applied to the model already stays as it is.
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
        """Take back the state of a checkpoint, follow the optimizer, and log.

        Raises:
            AttachError: resuming with a model made by `model_init`, after its masks were lost.
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
        """Compute the scalars at the steps that the Trainer logs, and as few others as possible.

        The algorithm counts its own steps: of other runs too, none that a gradient scaler skips.
        """
        self._stop_logging()
        self._ahead = state.global_step - self.sparsity.step
        every = math.gcd(self._every, self._ahead)
        self._logging = log_metrics(self.sparsity, self._keep_totals, every=every)

    def _start_again(self, model: nn.Module, state: TrainerState) -> None:
        """`model_init` made a new model."""
        if state.global_step:
            problem = "its masks were not loaded; to resume, give the Trainer model=model_init()"
            raise AttachError("the model of model_init", problem)
        self.sparsity.remove()
        self.sparsity.load_state_dict(self._start)
        self.sparsity.apply(model)

    def _keep_totals(self, scalars: dict[str, float], step: int) -> None:
        self._scalars.update({k: v for k, v in scalars.items() if k.count("/") == 1})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let a checkpoint saved after this step have the state; keep in step."""
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
        """Prune what others have put into the model, and stop logging; it stays sparse."""
        prune_weights(self.sparsity)
        self._stop_logging()

    def _stop_logging(self) -> None:
        if self._logging is not None:
            self._logging.remove()
            self._logging = None


def _to_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """An algorithm's state with its shadows as text."""
    shown = dict(state)
    if "algorithms" in state:
        shown["algorithms"] = [_to_json(each) for each in state["algorithms"]]
    if "shadows" in state:
        shadows = {name: shadow.contiguous() for name, shadow in state["shadows"].items()}
        shown["shadows"] = base64.b64encode(safetensors.torch.save(shadows)).decode()
    return shown


def _from_json(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse; whatever is of another form is left for `load_state_dict` to refuse.

    Raises:
        StateError: the text of shadows is damaged.
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
            raise StateError("the shadows", f"they are no base64 of safetensors: {error}") from None
    return state
