"""The command `sparsewright train`."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from sparsewright.cli.exit_status import FILE, INTERRUPTED, reports_errors
from sparsewright.cli.printing import print_layers, print_speeds, print_validation, printable
from sparsewright.errors import ConfigError, OptionTypeError
from sparsewright.metrics import LogFunction, TensorBoard
from sparsewright.runs import loop
from sparsewright.runs.config import RECIPES, RunConfig
from sparsewright.runs.progress import Progress
from sparsewright.runs.run_folder import RunFolder
from sparsewright.runs.training import Training
from sparsewright.runs.user_objects import load_object
from sparsewright.storage import ALL as STORAGES


class _StopRequest:
    """Turn the first Ctrl-C in a `with` block into a request; the second interrupts as usual."""

    def __enter__(self) -> Callable[[], bool]:
        self.asked = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return lambda: self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Record the request, and restore the previous signal handler."""
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
        click.echo("\nstopping after this step; press Ctrl-C again to stop immediately", err=True)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.before)


@click.command()
@click.argument("config", type=FILE, required=False)
@click.option(
    "--recipe", type=click.Choice(list(RECIPES)), help="Recipe to train. [default: charlm]"
)
@click.option(
    "--text",
    type=FILE,
    help="charlm: UTF-8 text to train on. [default: CPython's language reference]",
)
@click.option("--data", type=FILE, help="fashion: folder with the four idx(.gz) files.")
@click.option("--steps", type=int, help="Number of optimizer steps; overrides the configuration.")
@click.option("--seed", type=int, help="Seed for weights, batches and default masks. [default: 0]")
@click.option(
    "--storage",
    type=click.Choice([storage.name for storage in STORAGES]),
    help="Storage of sparse weights; overrides the section sparsity.",
)
@click.option("--no-baseline", is_flag=True, help="Do not train the dense baseline.")
@click.option("--out", type=FILE, help="Run folder to create. [default: runs/RECIPE-N]")
@click.option("--resume", type=FILE, metavar="RUN", help="Resume the run in this folder.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard scalars to RUN/tensorboard.")
@click.option("--log", metavar="MODULE:FUNCTION", help="Call FUNCTION(scalars, step) every step.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    help="Stop after this step; --resume continues.",
)
@reports_errors
def train(
    config: Path | None,
    recipe: str | None,
    out: Path | None,
    resume: Path | None,
    until: int | None,
    tensorboard: bool,
    log: str | None,
    **given: Any,
) -> int:
    """Train a sparse network and its dense baseline.

    The results are saved in a run folder. Without arguments, this trains a character-level GPT at
    90% sparsity with RigL on Python's language reference. CONFIG is a YAML file. Its section
    `sparsity` is a config for sparsewright.configure() (`trainer: init: sparsity:` works too). Its
    other keys are `recipe`, `data`, `model`, `optimizer` and `loop`, as in the config.yaml of any
    run folder.
    """
    logs = [_log_of(log)] if log else []
    if resume is not None:
        asked = (config, recipe, out, *given.values())
        if any(value is not None and value is not False for value in asked):  # 0 counts as given
            raise click.UsageError(
                "--resume continues a run with its saved configuration; "
                "combine it only with --until, --tensorboard and --log"
            )
        with RunFolder(resume) as folder:
            if folder.is_finished:
                see = f"sparsewright inspect {shlex.quote(str(resume))}"
                click.echo(printable(f"{resume} is finished; run `{see}` to see its layers"))
                return 0
            return _train(loop.restore(folder), folder, until, tensorboard, logs)
    resolved = RunConfig.from_file(config, recipe, _overrides(recipe, config, **given))
    path = out or loop.free_path(Path("runs"), resolved.recipe)
    training = loop.start(resolved, path)
    with RunFolder(path) as folder:
        return _train(training, folder, until, tensorboard, logs)


def _overrides(recipe: str | None, config: Path | None, **given: Any) -> dict[str, dict[str, Any]]:
    """Return the options of `train` that override the configuration, by section."""
    data: dict[str, Any] = {}
    if given["text"]:
        data["text"] = str(given["text"])
    if given["data"]:
        data["dir"] = str(given["data"])
    keys = ("steps", "seed", "storage")
    chosen = {key: given[key] for key in keys if given[key] is not None}
    if given["no_baseline"]:
        chosen["baseline"] = False
    return {"data": data, "loop": chosen}


def _log_of(spec: str) -> LogFunction:
    """Return the user's function that `module:function` names."""
    found = load_object(spec, "module:function, such as my_logs:send")
    if not callable(found):
        raise OptionTypeError("--log", found, "a function (scalars, step)")
    log: LogFunction = found
    return log


def _train(
    training: Training,
    folder: RunFolder,
    until: int | None,
    tensorboard: bool,
    logs: list[LogFunction],
) -> int:
    """Train in an open folder, and show the progress and the result."""
    if tensorboard and os.fsencode(folder.path).decode("utf-8", "ignore") != str(folder.path):
        raise ConfigError(folder.path, "--tensorboard requires a folder name in UTF-8")
    again = f"sparsewright train --resume {shlex.quote(str(folder.path))}"
    steps = training.config.loop.steps
    click.echo(printable(f"run folder: {folder.path}"), err=True)
    try:
        with (
            contextlib.ExitStack() as stack,
            _StopRequest() as asked,
            Progress(steps, training.steps_done, training.task.unit) as progress,
        ):
            if tensorboard:
                writer = TensorBoard(folder.path / "tensorboard", start=training.steps_done + 1)
                logs = [*logs, stack.enter_context(writer)]
            finished = loop.drive(
                training, folder, progress, until=until, should_stop=asked, logs=logs
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; resume from the last checkpoint with: {again}", err=True)
        return INTERRUPTED
    if not finished:
        what = "interrupted" if asked() else "stopped"
        click.echo(f"{what} at step {training.steps_done}; resume with: {again}", err=True)
        return INTERRUPTED if asked() else 0
    print_layers(loop.layers(training))
    click.echo()
    print_validation(training.validation)
    click.echo()
    print_speeds(training.speeds(), training.task.unit)
    return 0
