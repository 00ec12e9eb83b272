"""The code blocks of the documentation, and how to run them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import sparsewright
from helpers.processes import run_session
from sparsewright.errors import SparsewrightError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = {"python", "yaml", "bash", "text"}

_BLOCK = re.compile(
    r"(?:^<!-- ci: (?P<mark>\w+) -->\n)?"
    r'^```(?P<kind>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_SNIPPET = re.compile(r'--8<-- "(.+)"')


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        page: path of the page, relative to the root of the repository.
        line: line at which its code starts.
        kind: python, yaml, bash or text.
        title: name of the file that it shows; "" if it shows no file.
        mark: name by which `.ci/run` runs it; "" if it does not run there.
        code: its text.
    """

    page: str
    line: int
    kind: str
    title: str
    mark: str
    code: str

    @property
    def place(self) -> str:
        """Return page and line, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def is_example(self) -> bool:
        """Return whether it shows a file of the repository."""
        return bool(_SNIPPET.search(self.code))


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text, found = page.read_text("utf-8"), []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        groups = {key: value or "" for key, value in match.groupdict().items()}
        found.append(Block(str(page.relative_to(ROOT)), line, **groups))
    return found


def examples(page: Path) -> list[str]:
    """Return the files that a page shows."""
    return _SNIPPET.findall(page.read_text("utf-8"))


def run_page(page: str, folder: str, given: str) -> None:
    """Run a page's blocks from top to bottom in a folder, with warnings as errors.

    Args:
        page: path of the page.
        folder: folder in which its files are written and its commands run.
        given: Python code to run first, which defines the names that the page expects of readers.
    """
    os.chdir(folder)
    warnings.simplefilter("error")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(given, "given", "exec"), names)
    for block in blocks(Path(page)):
        if block.title:
            Path(block.title).write_text(block.code)
        if block.mark or block.is_example or block.kind == "text":
            continue
        if block.kind == "yaml":
            _configure(block)
        elif block.kind == "bash":
            _run_shell(block)
        elif not block.title:
            # Pad the code so that errors name the line of the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, block.page, "exec"), names)


def _configure(block: Block) -> None:
    """Build the Group that a configuration describes."""
    config = yaml.safe_load(block.code)
    if isinstance(config, dict) and "trainer" in config:
        config = config["trainer"]["init"]
    if isinstance(config, dict) and "algorithm" not in config:
        config = config["sparsity"]
    if block.title == "wrong.yaml":
        with contextlib.suppress(SparsewrightError):
            sparsewright.configure(config)
            raise AssertionError(f"{block.place}: the config is valid, but must raise an error")
    else:
        assert len(sparsewright.configure(config)) > 0, block.place


def _run_shell(block: Block) -> None:
    """Run commands in a shell, with the `sparsewright` and `torchrun` of this environment."""
    bin_folder = Path("bin")
    bin_folder.mkdir(exist_ok=True)
    commands = {
        "sparsewright": "-W error -c 'from sparsewright.cli import main; main()'",
        "torchrun": "-m torch.distributed.run",
    }
    for name, arguments in commands.items():
        command = bin_folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    path = os.pathsep.join([str(bin_folder.absolute()), os.environ["PATH"]])
    source = str(Path(sparsewright.__file__).parents[1])
    env = {"PATH": path, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    status, output = run_session(["bash", "-euo", "pipefail", "-c", block.code], env, timeout=200)
    assert status == 0, f"{block.place}\n{output[-6000:]}"


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links."""
    for match in re.finditer(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        yield match[1]
