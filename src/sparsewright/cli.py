"""The `sparsewright` command: `plan` a run, `train` it, `inspect` a checkpoint, `report`, `info`.

Exit status: 0 done (or stopped at --until), 1 failure, 2 usage (options, configuration, input
named in it), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import platform
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy
import torch

import sparsewright
from sparsewright import kernels
from sparsewright.core.errors import (
    ConfigError,
    LevelError,
    OptionError,
    OptionTypeError,
    ShapeError,
    SparsewrightError,
)
from sparsewright.metrics import Log, TensorBoard
from sparsewright.recipes import loop
from sparsewright.recipes.config import RECIPES, RunConfig
from sparsewright.recipes.display import (
    Progress,
    print_layers,
    print_speeds,
    print_validation,
    printable,
)
from sparsewright.recipes.imports import load_object
from sparsewright.recipes.layers import count_layers, read_weights
from sparsewright.recipes.plan import view
from sparsewright.recipes.plan.config import plan_file
from sparsewright.recipes.run_folder import RunFolder
from sparsewright.recipes.training import Training
from sparsewright.report.command import FORMATS, write_report

_USAGE = (ConfigError, LevelError, OptionError, OptionTypeError, ShapeError)
_FAILURE, _MISUSE, _INTERRUPTED = 1, 2, 130


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)


def _reports_errors(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command `--debug`, and turn what it raises into one line and an exit status."""

    @click.option("--debug", is_flag=True, help="Show tracebacks, and why parameters are skipped.")
    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool, **options: Any) -> None:
        warnings.showwarning = _show_warning
        if debug:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("sparsewright").setLevel(logging.INFO)
        try:
            status = command(*args, **options)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            status = _INTERRUPTED
        except Exception as error:  # the outermost frame: nothing above could handle it
            if debug:
                traceback.print_exc()
            known = isinstance(error, SparsewrightError)
            name = "" if known else f"{type(error).__name__}: "
            hint = "" if known or debug else " (--debug shows where)"
            click.echo(printable(f"error: {name}{error}{hint}"), err=True)
            status = _MISUSE if isinstance(error, _USAGE) else _FAILURE
        sys.exit(status)

    return wrapper


class _StopRequest:
    """While entered, the first Ctrl-C is a request; the second interrupts as usual."""

    def __enter__(self) -> Callable[[], bool]:
        self.asked = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return lambda: self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
        click.echo("\nstopping after this step; Ctrl-C again to stop at once", err=True)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.before)


@click.group()
@click.version_option(sparsewright.__version__, prog_name="sparsewright")
def main() -> None:
    """Sparse training on plain PyTorch.

    Exit status: 0 done, 1 failure, 2 usage (options, configuration, and input they name), 130
    interrupted.
    """


_FILE = click.Path(path_type=Path)


@main.command()
@click.argument("config", type=_FILE, required=False)
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="What to train  [charlm].")
@click.option("--text", type=_FILE, help="charlm: a UTF-8 text instead of CPython's reference.")
@click.option("--data", type=_FILE, help="fashion: the folder with the four idx(.gz) files.")
@click.option("--steps", type=int, help="Optimizer steps, instead of the configuration's.")
@click.option("--seed", type=int, help="Seed of weights, batches and default masks  [0].")
@click.option(
    "--storage",
    type=click.Choice(["masked", "compressed"]),
    help="How sparse weights are stored, instead of what the section sparsity says.",
)
@click.option("--no-baseline", is_flag=True, help="Do not train the dense twin beside it.")
@click.option("--out", type=_FILE, help="The run folder to make  [runs/RECIPE-N].")
@click.option("--resume", type=_FILE, metavar="RUN", help="Go on with the run in this folder.")
@click.option("--tensorboard", is_flag=True, help="Write scalars into RUN/tensorboard.")
@click.option("--log", metavar="MODULE:FUNCTION", help="Call function(scalars, step) every step.")
@click.option("--until", type=click.IntRange(min=1), help="Stop after this step, resumably.")
@_reports_errors
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
    """Train a sparse network beside its dense twin, into a run folder.

    Without arguments: a character-level GPT at 90% sparsity with RigL, on the text of Python's
    language reference. CONFIG is a YAML file: its section `sparsity` is what
    sparsewright.configure() takes (`trainer: init: sparsity:` works too); `recipe`, `data`,
    `model`, `optimizer` and `loop` are as in the config.yaml of any run folder.
    """
    logs = [_log_of(log)] if log else []
    if resume is not None:
        asked = (config, recipe, out, *given.values())
        if any(value is not None and value is not False for value in asked):  # 0 is an answer
            raise click.UsageError(
                "--resume goes on with the run as it is; "
                "allowed beside it: --until, --tensorboard, --log"
            )
        with RunFolder(resume) as folder:
            if folder.is_finished:
                see = f"sparsewright inspect {shlex.quote(str(resume))}"
                click.echo(f"{resume} is finished; see `{see}`")
                return 0
            return _train(loop.restore(folder), folder, until, tensorboard, logs)
    resolved = RunConfig.from_file(config, recipe, _overrides(recipe, config, **given))
    path = out or loop.free_path(Path("runs"), resolved.recipe)
    training = loop.start(resolved, path)
    with RunFolder(path) as folder:
        return _train(training, folder, until, tensorboard, logs)


def _overrides(recipe: str | None, config: Path | None, **given: Any) -> dict[str, dict[str, Any]]:
    """The options of `train` that replace keys of the configuration, by section."""
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


def _log_of(spec: str) -> Log:
    """The user's function that `module:function` names."""
    found = load_object(spec, "module:function, such as my_logs:send")
    if not callable(found):
        raise OptionTypeError("--log", found, "a function (scalars, step)")
    log: Log = found
    return log


def _train(
    training: Training, folder: RunFolder, until: int | None, tensorboard: bool, logs: list[Log]
) -> int:
    """Train in an open folder; show progress and the result."""
    again = f"sparsewright train --resume {shlex.quote(str(folder.path))}"
    steps = training.config.loop.steps
    click.echo(f"run folder: {folder.path}", err=True)
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
        click.echo(f"interrupted; go on from the last checkpoint with: {again}", err=True)
        return _INTERRUPTED
    if not finished:
        what = "interrupted" if asked() else "stopped"
        click.echo(f"{what} at step {training.steps_done}; go on with: {again}", err=True)
        return _INTERRUPTED if asked() else 0
    print_layers(loop.layers(training))
    click.echo()
    print_validation(training.validation)
    click.echo()
    print_speeds(training.speeds(), training.task.unit)
    return 0


@main.command()
@click.argument("config", type=_FILE)
@click.option("--model", metavar="MODULE:FACTORY", help="Plan for this model, not a recipe's.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_reports_errors
def plan(config: Path, model: str | None, steps: int | None, as_json: bool) -> int:
    """Show what CONFIG will do, without training; list all that is wrong with it.

    CONFIG is what `train` takes. With --model it is any YAML file whose section `sparsity`, or
    whose whole content, is what sparsewright.configure() takes; the factory is called without
    arguments and gives a module, or (module, inputs). It is built on the meta device if it can be.
    The exit status is 2 if anything is wrong.
    """
    made, problems = plan_file(config, model, steps)
    if made is None:
        for problem in problems:
            click.echo(f"error: {problem.place}: {problem.message}", err=True)
        if as_json:
            click.echo(json.dumps({"problems": [asdict(p) for p in problems]}, indent=2))
        return _MISUSE
    if as_json:
        click.echo(json.dumps(view.as_json(made), indent=2))
    else:
        view.print_plan(made)
    return 0


@main.command()
@click.argument("path", type=_FILE)
@_reports_errors
def inspect(path: Path) -> int:
    """Show what is kept in each layer of PATH.

    PATH is a .safetensors file (compressed ones too), a state dict saved by torch.save, or a run
    folder. The exit status is 1 if a mask and its weight disagree.
    """
    file, weights = read_weights(path)
    layers = count_layers(weights)
    click.echo(f"{file}")
    print_layers(layers)
    wrong = [layer for layer in layers if layer.problem]
    for layer in wrong:
        click.echo(printable(f"error: {file}: {layer.name}: {layer.problem}"), err=True)
    return _FAILURE if wrong else 0


@main.command()
@click.argument("runs", type=_FILE, nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="html")
@click.option("-o", "--output", type=_FILE, help="File to write, or -  [RUN/report.FORMAT].")
@_reports_errors
def report(runs: tuple[Path, ...], kind: str, output: Path | None) -> int:
    """Report on saved runs, as a page that works without a network, or as tables.

    RUN is a run folder; several are compared. The page shows losses, sparsity, churn and masks
    layer by layer, speed, configuration, versions, and the papers to cite.
    """
    file = write_report(list(runs), kind, output)
    if file:
        click.echo(f"{file}")
    return 0


@main.command()
@_reports_errors
def info() -> int:
    """Print versions, threads, and which kernels are active (and why others are not)."""
    facts = kernels.info()
    lines = {
        "sparsewright": sparsewright.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "kernels": facts["active"],
        "because": facts["why_not"],
        "instruction set": facts["isa"],
        "best of this CPU": facts["best_isa"],
        "torch's choice": facts["cpu"],
        "compiler": facts["compiler"],
        "threads": facts["threads"],
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for name, value in lines.items():
        if value != "":
            click.echo(f"{name:17} {value}")
    return 0
