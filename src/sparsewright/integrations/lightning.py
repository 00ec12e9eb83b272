"""Sparse training in Lightning: one callback.

::

    from sparsewright.integrations.lightning import SparsityCallback

    trainer = lightning.Trainer(callbacks=[SparsityCallback(sparsity)])
    trainer.fit(module)  # module and configure_optimizers stay as they are
"""

from __future__ import annotations

from typing import Any

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.hooks import Removable
from sparsewright.errors import AttachError, needs
from sparsewright.integrations import follow_only, is_attached, prune_weights
from sparsewright.integrations.trainer_private import (
    after_hook,
    forget_hooks,
    log_interval,
    logged_step,
    why_not_average,
)
from sparsewright.metrics import log_metrics

with needs("SparsityCallback", "lightning", extra="lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import (
        DeepSpeedStrategy,
        FSDPStrategy,
        ModelParallelStrategy,
    )

__all__ = ["SparsityCallback"]

_SHARDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class SparsityCallback(Callback):
    """Applies a sparsity algorithm, saves and restores it, and logs what it does.

    The module is sparsified when it has all of its layers (after its `setup` and
    `configure_model`), the optimizers of `configure_optimizers` when fitting starts. Masks are in
    the checkpoint's `state_dict`, the algorithm's state is that of the callback, so
    `fit(ckpt_path=...)` goes on exactly where the run stopped. Every `log_every_n_steps` steps the
    scalars of `log_metrics` go to the trainer's loggers, at the step that the trainer's own have.

    `validate`, `test` and `predict` sparsify a module only to load a checkpoint into it.
    `MyModule.load_from_checkpoint(path, strict=False)` loads the weights, zeros included, without
    the masks. After `ddp_spawn` the algorithm in the main process has not moved: prefer `ddp`.

    Args:
        sparsity: the algorithm, or a Group. One applied to the module already stays as it is.
    """

    def __init__(self, sparsity: SparsityAlgorithm) -> None:
        self.sparsity = sparsity
        self._logging: Removable | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sparsify the module, after its layers are there and before a checkpoint is loaded.

        Raises:
            AttachError: the strategy shards parameters.
        """
        if isinstance(trainer.strategy, _SHARDING):
            name = type(trainer.strategy).__name__
            raise AttachError(
                name, "it shards weights, which this callback does not support; use ddp"
            )

        def sparsify() -> None:
            if stage == "fit":
                pl_module.configure_model()  # Lightning asks that a second call does nothing
            if not is_attached(self.sparsity, pl_module):
                self.sparsity.apply(pl_module)

        # Callbacks are set up before the module, and layers may be made in its setup.
        after_hook(pl_module, "setup" if stage == "fit" else "on_load_checkpoint", sparsify)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget a checkpoint that was not loaded, and stop logging."""
        self._leave(pl_module)
        self._prune(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the module and the algorithm without hooks."""
        self._leave(pl_module)

    def _leave(self, pl_module: LightningModule) -> None:
        forget_hooks(pl_module, "setup", "on_load_checkpoint")
        self._stop_logging()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimizers, and log.

        Raises:
            AttachError: a callback averages weights in a way that masks do not survive.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            problem = why_not_average(callback, pl_module)
            if problem:
                raise AttachError(type(callback).__name__, problem)
        follow_only(self.sparsity, trainer.optimizers)
        self._stop_logging()
        every = log_interval(trainer)
        if trainer.loggers and every and trainer.is_global_zero:

            def log(scalars: dict[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    # Not the algorithm's step: the axis of everything else, as Lightning counts it.
                    logger.log_metrics(scalars, logged_step(trainer))

            self._logging = log_metrics(self.sparsity, log, every=every)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Prune averages that another callback has put into the module to validate them."""
        if batch_idx == 0:
            self._prune(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune averages that another callback has put into the module."""
        self._prune(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, after the last of all callbacks, and stop logging; the module stays sparse."""
        self._prune(pl_module)
        self._stop_logging()

    def _prune(self, pl_module: LightningModule) -> None:
        if is_attached(self.sparsity, pl_module):
            prune_weights(self.sparsity)

    def _stop_logging(self) -> None:
        if self._logging is not None:
            self._logging.remove()
            self._logging = None

    def state_dict(self) -> dict[str, Any]:
        """The state of the algorithm, for the checkpoint."""
        return self.sparsity.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the state of the algorithm.

        Raises:
            StateError: it is the state of another algorithm.
        """
        self.sparsity.load_state_dict(state_dict)
