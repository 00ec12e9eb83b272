"""`sparsewright report`: from run folders to a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sparsewright.errors import RunError
from sparsewright.formats.atomic import write_atomically
from sparsewright.report.exports import to_csv, to_json, to_markdown
from sparsewright.report.page import make_page
from sparsewright.report.read import read_runs

FORMATS = {"html": make_page, "csv": to_csv, "json": to_json, "md": to_markdown}


def write_report(paths: list[Path], kind: str, output: Path | None) -> Path | None:
    """Report on saved runs.

    Args:
        paths: run folders.
        kind: a key of `FORMATS`.
        output: the file to write, replaced if it is there; `-`: standard output; None:
            `report.<kind>` in the first run folder.

    Returns:
        The file written, or None for standard output.

    Raises:
        ConfigError: a folder that is missing or not a run folder.
        CheckpointError: a run folder with a damaged file.
        RunError: the report cannot be written.
        OptionError: the page would be too large.
        MissingPackageError: plotly is not installed, which html needs.
    """
    # UTF-8, whatever the terminal's; half a character, from a file with such names, is escaped.
    content = FORMATS[kind](read_runs(paths)).encode("utf-8", "backslashreplace")
    if output == Path("-"):
        sys.stdout.buffer.write(content)
        return None
    target = output or paths[0] / f"report.{kind}"
    if os.path.isdir(target):
        raise RunError(target, "cannot be written: it is a folder; allowed: a file")
    try:
        if output is not None and target.exists() and not target.is_file():
            target.write_bytes(content)  # a pipe or a device, not to be replaced by a file
        else:
            write_atomically(target, content)
    except OSError as error:
        raise RunError(target, f"cannot be written: {error.strerror}") from error
    return target
