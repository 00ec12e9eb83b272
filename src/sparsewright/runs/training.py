"""Train a sparse network and its dense baseline, and save and load their state."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.configure import configure
from sparsewright.errors import CheckpointError, OptionError, SparsewrightError, StateError
from sparsewright.events import MaskUpdate
from sparsewright.group import Group
from sparsewright.layers import as_compressed
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings
from sparsewright.recipes.task import Task, key
from sparsewright.runs.config import RunConfig
from sparsewright.runs.layer_counts import Churn
from sparsewright.runs.mask_history import MaskHistory
from sparsewright.runs.validate_state import check_shadows, check_weights, load_optimizer
from sparsewright.session.convert import compress, decompress
from sparsewright.wording import show


def learning_rate(lr: float, loop: LoopSettings, step: int) -> float:
    """Return the learning rate of step `step` (0, 1, ...): a cosine with linear warm-up.

    rate = lr * min(1, (step + 1) / warmup) * (f + (1 - f) * (1 + cos(pi * step / steps)) / 2),
    where f is `loop.final_lr`.
    """
    warm = min(1.0, (step + 1) / loop.warmup) if loop.warmup else 1.0
    wave = (1 + math.cos(math.pi * step / loop.steps)) / 2
    return lr * warm * (loop.final_lr + (1 - loop.final_lr) * wave)


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Make the optimizer from its settings, without weight decay for biases and norms."""
    # A compressed weight has one-dimensional values, but it is still decayed as a weight.
    layers = filter(None, map(as_compressed, model.modules()))
    values = {id(layer.values) for layer in layers}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_weight = parameter.ndim > 1 or id(parameter) in values
        (decayed if is_weight else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=(0.9, settings.beta2))


def sparsify(model: nn.Module, section: Any, storage: str | None = None) -> Group:
    """Apply a `sparsity` section to a model.

    Args:
        model: the model.
        section: the value for `configure`.
        storage: storage of all sparse weights; overrides the section.

    Raises:
        SparsewrightError: `configure` or `apply` failed; the message names the section.
        OptionError: the section leaves the whole model dense.
    """
    try:
        algorithm: Group | None = configure(section)
        if algorithm:  # None for `sparsity: null`
            for part in algorithm.algorithms:
                part.storage = storage or part.storage
            algorithm.apply(model)
    except SparsewrightError as error:
        error.args = (f"section 'sparsity': {error}",)
        raise
    if not algorithm or not algorithm.sparse_params:
        names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
        allowed = f"a section whose param_filter matches at least one of {', '.join(names)}"
        if algorithm and any(part.skips_misfits for part in algorithm.algorithms):
            allowed += " and whose structure fits it"
        raise OptionError("section 'sparsity'", section, allowed)
    return algorithm


def _make_model(config: RunConfig, task: Task) -> nn.Module:
    try:
        return task.make_model()
    except (MemoryError, RuntimeError) as error:  # torch's allocator raises the latter
        reason = " ".join(str(error).split()[:24])
        allowed, advice = "small enough for this machine", f"PyTorch says: {reason}."
        size = asdict(config.model)
        raise OptionError("section 'model'", size, allowed, advice=advice) from error


class Network:
    """One network in training: its model, its optimizer and, for the sparse one, its algorithm."""

    def __init__(self, config: RunConfig, task: Task, *, is_sparse: bool) -> None:
        self.config, self.task = config, task
        self.model = _make_model(config, task)
        storage = config.loop.storage
        self.algorithm = sparsify(self.model, config.sparsity, storage) if is_sparse else None
        self.optimizer = make_optimizer(self.model, config.optimizer)
        if self.algorithm is not None:
            self.algorithm.apply(self.optimizer)

    def step(self, number: int) -> float:
        """Do optimizer step `number` (0, 1, ...) and return the loss before it, in nats."""
        loop = self.config.loop
        # Seed by step, so that dropout draws the same numbers after a resume.
        torch.manual_seed(key(loop.seed, number))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer.lr, loop, number)
        loss = self.task.loss(self.model, *self.task.batch(number))
        self.optimizer.zero_grad()
        loss.backward()
        if loop.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), loop.clip)
        self.optimizer.step()
        return loss.item()

    def evaluate(self) -> dict[str, float]:
        """Return the task's metrics on the held-out data."""
        self.model.eval()
        with torch.no_grad():
            metrics = self.task.evaluate(self.model)
        self.model.train()
        return metrics

    def state(self) -> dict[str, Any]:
        """Return all state except the model's state dict."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.algorithm is not None:
            state["algorithm"] = self.algorithm.state_dict()
        return state

    def load(self, weights: Mapping[str, Tensor], state: dict[str, Any], steps: int) -> None:
        """Load a model's state dict, and the value that `state` returned after `steps` steps.

        Raises:
            StateError: the state belongs to another network.
        """
        check_weights(self.model.state_dict(), weights)
        self.model.load_state_dict(weights)
        load_optimizer(self.optimizer, state["optimizer"], steps)
        if self.algorithm is not None:
            self.algorithm.load_state_dict(state["algorithm"])
            check_shadows(self.algorithm)


class Training:
    """A sparse network and, unless `loop.baseline` is false, its dense baseline.

    Both networks start from the same weights and see the same batches.

    Attributes:
        steps_done: optimizer steps completed.
        events: mask updates since the start of the last call to `step`, with the row counts from
            `history`.
        history: the rows in which connections ever grew, and the masks for snapshots.
        validation: metrics of the last evaluation by name; those of the dense baseline are named
            `dense_<name>`.
    """

    def __init__(self, config: RunConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.sparse = Network(config, task, is_sparse=True)
        self.dense = Network(config, task, is_sparse=False) if config.loop.baseline else None
        self.steps_done = 0
        self.churn = Churn()
        self.events: list[dict[str, Any]] = []
        self.validation: dict[str, float] = {}
        assert self.sparse.algorithm is not None
        self.algorithm = self.sparse.algorithm
        self.history = MaskHistory(self.algorithm)
        self.algorithm.register_mask_update_hook(self._record)
        self.level = self._measure_level()

    def _record(self, update: MaskUpdate) -> None:
        self.events.append({**asdict(update), **self.history.record(update)})
        self.churn.record(update)

    def _measure_level(self) -> float:
        """Return the pruned fraction of all sparse parameters together, from their masks."""
        masks = [parameter.mask for parameter in self.algorithm.sparse_params.values()]
        kept = sum(int(mask.count_nonzero()) for mask in masks)
        total = sum(int(mask.numel()) for mask in masks)
        return 1 - kept / total

    def step(self) -> dict[str, Any]:
        """Do one step of both networks, and return its metrics."""
        self.events.clear()
        started = time.perf_counter()
        loss = self.sparse.step(self.steps_done)
        seconds = time.perf_counter() - started
        line: dict[str, Any] = {"step": self.steps_done + 1, "loss": loss}
        if self.dense:
            line["dense_loss"] = self.dense.step(self.steps_done)
        if self.events:
            self.level = self._measure_level()
            changed = sum(update["dropped"] + update["grown"] for update in self.events)
            kept = sum(update["kept"] for update in self.events)
            line["churn"] = round(changed / max(1, kept), 6)
        self.steps_done += 1
        line["level"] = round(self.level, 6)
        line[f"{self.task.unit}_per_second"] = round(self.task.units_per_step / seconds)
        return line

    def evaluate(self) -> dict[str, float]:
        """Evaluate both networks; `validation` keeps the result."""
        self.validation = self.sparse.evaluate()
        if self.dense:
            dense = self.dense.evaluate()
            self.validation |= {f"dense_{name}": value for name, value in dense.items()}
        return self.validation

    def speeds(self, rounds: int = 8) -> dict[str, float]:
        """Measure the speed of forward and backward: dense, masked and compressed, interleaved.

        Args:
            rounds: number of batches per model.

        Returns:
            Median units per second by name.
        """
        models = {name: copy.deepcopy(self.sparse.model) for name in ("masked", "compressed")}
        decompress(models["masked"])
        compress(models["compressed"], verbose=False)
        if self.dense:
            models = {"dense": self.dense.model, **models}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(rounds):
            batch = self.task.batch(number)
            for name, model in models.items():
                started = time.perf_counter()
                model.zero_grad()
                self.task.loss(model, *batch).backward()
                seconds[name].append(time.perf_counter() - started)
        units = self.task.units_per_step
        return {name: units / statistics.median(times) for name, times in seconds.items()}

    def weights(self) -> dict[str, Tensor]:
        """Return the sparse model's state dict, including masks."""
        return {name: t.contiguous() for name, t in self.sparse.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return all state except the sparse model's weights, as plain values and tensors."""
        dense = self.dense and {"model": self.dense.model.state_dict(), **self.dense.state()}
        return {
            "step": self.steps_done,
            "fingerprint": self.task.fingerprint,
            "metadata": self.task.metadata,
            "churn": self.churn.totals,
            "history": self.history.state(),
            "validation": self.validation,
            "sparse": self.sparse.state(),
            "dense": dense,
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any], where: object) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: the checkpoint was made with another model or other data.
        """
        if state.get("fingerprint") != self.task.fingerprint:
            problem = "the data have changed since this checkpoint; restore them to resume the run"
            raise CheckpointError(where, problem)
        step, most = state.get("step"), self.config.loop.steps
        if type(step) is not int or not 0 <= step <= most:
            problem = f"expected a step between 0 and {most}, got {show(step)}"
            raise CheckpointError(where, problem)
        try:
            self.sparse.load(weights, state["sparse"], step)
            if self.algorithm.step != step:
                problem = f"it is at step {self.algorithm.step}, but the checkpoint at step {step}"
                raise StateError("the algorithm", problem)
            if self.dense:
                self.dense.load(state["dense"]["model"], state["dense"], step)
            self.churn = Churn({str(k): [int(n), float(x)] for k, (n, x) in state["churn"].items()})
            self.history.load(state["history"])
            self.validation = {str(k): float(v) for k, v in state["validation"].items()}
        except Exception as error:  # the file is untrusted: any key can have any type
            reason = " ".join(str(error).split())
            raise CheckpointError(where, f"does not fit the model: {reason}") from error
        self.steps_done = step
        self.level = self._measure_level()
