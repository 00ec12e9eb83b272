"""Callback for sparse training with Lightning.

::

    from sparsewright.integrations.lightning import SparsityCallback

    trainer = lightning.Trainer(callbacks=[SparsityCallback(sparsity)])
    trainer.fit(module)  # module and configure_optimizers stay unchanged
"""

from __future__ import annotations

from typing import Any

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.hooks import Removable
from sparsewright.errors import AttachError, needs
from sparsewright.integrations import follow_only, is_attached, prune_weights
from sparsewright.integrations.trainer_private import (
    after_hook,
    callbacks_of,
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
    """Apply a sparsity algorithm, save and restore its state, and log its metrics.

    The callback sparsifies the module once all layers exist (after `setup` and
    `configure_model`), and the optimizers of `configure_optimizers` when fitting starts. The
    checkpoint stores the masks in its `state_dict` and the algorithm's state as the state of this
    callback, so `fit(ckpt_path=...)` resumes exactly where the run stopped. Every
    `log_every_n_steps` steps, the scalars of `log_metrics` go to the trainer's loggers with the
    same step as the trainer's own scalars.

    `validate`, `test` and `predict` sparsify a module only to load a checkpoint into it.
    `MyModule.load_from_checkpoint(path, strict=False)` loads the weights, including their zeros,
    without the masks. After `ddp_spawn`, the algorithm in the main process is still in its initial
    state, so prefer `ddp`.

    Args:
        sparsity: the algorithm, or a Group. If it is already applied to the module, it stays
            applied.
    """

    def __init__(self, sparsity: SparsityAlgorithm) -> None:
        self.sparsity = sparsity
        self._logging: Removable | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sparsify the module after its layers exist and before a checkpoint is loaded.

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
                pl_module.configure_model()  # Lightning requires a second call to do nothing
            if not is_attached(self.sparsity, pl_module):
                self.sparsity.apply(pl_module)

        # Lightning sets up callbacks before the module, whose setup may create layers.
        after_hook(pl_module, "setup" if stage == "fit" else "on_load_checkpoint", sparsify)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove hooks of a checkpoint that was not loaded, stop logging, and prune."""
        self._leave(pl_module)
        self._prune(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks from the module and the algorithm."""
        self._leave(pl_module)

    def _leave(self, pl_module: LightningModule) -> None:
        """Remove all hooks of this callback."""
        forget_hooks(pl_module, "setup", "on_load_checkpoint")
        self._stop_logging()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimizers and start logging.

        Raises:
            AttachError: another callback averages weights in a way that does not work with masks.
        """
        for callback in callbacks_of(trainer):
            problem = why_not_average(callback, pl_module)
            if problem:
                raise AttachError(type(callback).__name__, problem)
        follow_only(self.sparsity, trainer.optimizers)
        self._stop_logging()
        every = log_interval(trainer)
        if trainer.loggers and every and trainer.is_global_zero:

            def log(scalars: dict[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    # Lightning's own step, so that all scalars share one axis.
                    logger.log_metrics(scalars, logged_step(trainer))

            self._logging = log_metrics(self.sparsity, log, every=every)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Prune the averages that another callback may have loaded for validation."""
        if batch_idx == 0:
            self._prune(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune the averages that another callback may have loaded into the module."""
        self._prune(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune after all other callbacks, and stop logging; the module stays sparse."""
        self._prune(pl_module)
        self._stop_logging()

    def _prune(self, pl_module: LightningModule) -> None:
        """Prune the weights if the module is sparsified."""
        if is_attached(self.sparsity, pl_module):
            prune_weights(self.sparsity)

    def _stop_logging(self) -> None:
        """Stop logging, if it was started."""
        if self._logging is not None:
            self._logging.remove()
            self._logging = None

    def state_dict(self) -> dict[str, Any]:
        """Return the algorithm's state for the checkpoint."""
        return self.sparsity.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the algorithm's state.

        Raises:
            StateError: the state belongs to another algorithm.
        """
        self.sparsity.load_state_dict(state_dict)
