"""Train a run: log metrics, evaluate, save checkpoints and stop."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import torch

import sparsewright
from sparsewright import kernels
from sparsewright.errors import DivergenceError
from sparsewright.metrics import LogFunction, log_metrics
from sparsewright.runs.config import RunConfig
from sparsewright.runs.layer_counts import Layer, count_layers
from sparsewright.runs.mask_history import is_snapshot_due
from sparsewright.runs.progress import Progress
from sparsewright.runs.run_folder import RunFolder, check_free, last_checkpoint
from sparsewright.runs.training import Training


def versions() -> dict[str, str]:
    """Return the versions of all software that a run's numbers depend on."""
    return {
        "sparsewright": sparsewright.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "kernels": str(kernels.info()["active"]),
        "platform": platform.platform(),
    }


def peak_memory() -> dict[str, int]:
    """Return the process's peak resident memory, or an empty dict if the system has no count."""
    try:
        import resource
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": peak}


def free_path(parent: Path, recipe: str) -> Path:
    """Return the first of `<recipe>-1`, `<recipe>-2`, ... that does not exist."""
    return next(p for n in count(1) if not (p := parent / f"{recipe}-{n}").exists())


def start(config: RunConfig, path: Path) -> Training:
    """Create a `Training` and its run folder, with a checkpoint for step 0.

    Raises:
        RunError: something already exists at `path`, or the folder cannot be written.
        SparsewrightError: reading the data or `sparsewright.configure` failed.
    """
    check_free(path)
    torch.set_num_threads(config.loop.threads or 1)
    training = Training(config, config.make_task())
    RunFolder.create(path, config.to_yaml(), training.weights(), training.state())
    return training


def restore(folder: RunFolder) -> Training:
    """Load the `Training` of a run folder from its last checkpoint, and remove later records.

    Raises:
        CheckpointError: the checkpoint is damaged, or was made with other data.
        SparsewrightError: any error that `start` raises.
    """
    config = RunConfig.from_file(folder.path / "config.yaml")
    torch.set_num_threads(config.loop.threads or 1)
    training = Training(config, config.make_task())
    weights, state = folder.load()
    training.load(weights, state, where=last_checkpoint(folder.path))
    folder.rewind(state)  # last, so that a rejected checkpoint leaves the folder unchanged
    return training


def drive(
    training: Training,
    folder: RunFolder,
    progress: Progress,
    *,
    until: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    logs: Sequence[LogFunction] = (),
) -> bool:
    """Train to the end, to step `until`, or until `should_stop`, and save a checkpoint there.

    Args:
        training: networks and optimizers to train.
        folder: the run folder.
        progress: displays the progress.
        until: step to stop at; None to train to the end.
        should_stop: called before every step; returns True to stop.
        logs: functions that receive every scalar of the run, as `(scalars, step)`.

    Returns:
        True if the run is finished.

    Raises:
        DivergenceError: a loss is not finite; the previous checkpoint remains.
        RunError: the folder cannot be written; the previous checkpoint remains.
    """
    loop = training.config.loop
    goal = loop.steps if until is None else min(until, loop.steps)
    saved = training.steps_done
    folder.note_versions(saved, versions())
    if saved == 0:
        folder.save_masks(0, *training.history.snapshot())

    def tell(scalars: dict[str, float], step: int) -> None:
        for log in logs:
            log(scalars, step)

    if logs:
        log_metrics(training.algorithm, tell)
    while training.steps_done < goal and not should_stop():
        line = _one_step(training, folder, progress)
        tell(
            {f"train/{name}": value for name, value in line.items() if name != "step"}, line["step"]
        )
        done = training.steps_done
        if done % loop.evaluate_every == 0 or done == loop.steps:
            values = training.evaluate()
            _check_finite(values, done)
            folder.log(event="validation", step=done, **values)
            progress.validation(done, values)
            tell({f"validation/{name}": value for name, value in values.items()}, done)
        if done % loop.checkpoint_every == 0 or done == loop.steps:
            folder.save(training.weights(), training.state())
            saved = done
    if saved != training.steps_done:
        folder.save(training.weights(), training.state())
    if training.steps_done < loop.steps:
        return False
    folder.finish(_result(training))
    return True


def _check_finite(values: dict[str, float], step: int) -> None:
    """Raise DivergenceError for the first value that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergenceError(name, value, step)


def _one_step(training: Training, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Do one step, log its metrics, and return the line that describes the step."""
    line = training.step() | peak_memory()
    _check_finite(line, line["step"])
    for update in training.events:
        folder.log(event="mask_update", **update)
    folder.log(event="step", **line)
    if training.events and is_snapshot_due(
        line["step"], folder.last_masks, training.config.loop.steps
    ):
        folder.save_masks(line["step"], *training.history.snapshot())
    progress.step(line)
    return line


def layers(training: Training) -> list[Layer]:
    """Return the sparse layers of a run, with their churn."""
    return [layer for layer in count_layers(training.weights(), training.churn) if layer.masked]


def _result(training: Training) -> dict[str, Any]:
    """Return the content of result.json."""
    return {
        "steps": training.steps_done,
        "level": training.level,
        "validation": training.validation,
        "layers": [asdict(layer) for layer in layers(training)],
    }
