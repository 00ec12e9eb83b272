"""Runs the command as a real process, without the cost of `import torch` each time.

A fork server imports the command once. Every run is a new process forked from it, with its own
output, working directory and exit status. `test_installed_command_...` runs the installed command
without a fork server.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml

_server = multiprocessing.get_context("forkserver")
# torch.optim imports torch._dynamo at its first use, which takes most of the time of a short run.
_server.set_forkserver_preload(["sparsewright.cli", "torch._dynamo"])

TINY = {
    "model": {"layers": 1, "width": 16, "heads": 2, "context": 8},
    "loop": {
        "steps": 20,
        "batch_size": 4,
        "warmup": 3,
        "evaluate_every": 10,
        "checkpoint_every": 5,
        "threads": 1,
    },
    "data": {"text": "text.txt"},
}


def _move_to(folder: str) -> None:
    """Change to a folder and redirect the output into it."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(handle, number)
    os.chdir(folder)


def _child(arguments: list[str], folder: str, file_limit: int | None) -> None:
    _move_to(folder)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    import warnings

    from sparsewright.cli import main
    from sparsewright.errors import SparsityWarning

    warnings.simplefilter("error")
    warnings.simplefilter("default", SparsityWarning)
    sys.argv = ["sparsewright", *arguments]
    main(arguments, prog_name="sparsewright")


@dataclass
class Outcome:
    """Exit status and output of a finished process."""

    status: int
    out: str
    err: str


def _wait(process: BaseProcess, folder: Path, limit: float) -> Outcome:
    process.join(limit)
    assert process.exitcode is not None, f"the process did not end within {limit} s"
    out, err = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return Outcome(process.exitcode, out, err)


def _call(function: Callable[..., None], arguments: tuple[object, ...], folder: str) -> None:
    _move_to(folder)
    function(*arguments)


def run_in_process(
    function: Callable[..., None], *arguments: object, folder: Path, limit: float = 300.0
) -> Outcome:
    """Call a function of a module in a separate process, in a folder."""
    process = _server.Process(target=_call, args=(function, arguments, str(folder)))
    process.start()
    return _wait(process, folder, limit)


class Command:
    """Run `sparsewright` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: object, file_limit: int | None = None) -> BaseProcess:
        texts = [str(argument) for argument in arguments]
        process = _server.Process(target=_child, args=(texts, str(self.folder), file_limit))
        process.start()
        return process

    def wait(self, process: BaseProcess, limit: float = 60.0) -> Outcome:
        return _wait(process, self.folder, limit)

    def __call__(self, *arguments: object, file_limit: int | None = None) -> Outcome:
        return self.wait(self.start(*arguments, file_limit=file_limit))

    def config(self, name: str = "tiny.yaml", **sections: object) -> Path:
        """Write TINY to a file, overridden by sections (dicts are merged), and return the path."""
        content: dict[str, object] = {}
        for key in {**TINY, **sections}:
            mine, given = TINY.get(key, {}), sections.get(key, {})
            content[key] = {**mine, **given} if isinstance(given, dict) and mine else given
        path = self.folder / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path


def wait_for(condition, limit: float = 60.0) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {limit} s"
        time.sleep(0.005)
