"""Read run folders and write a report file, for `sparsewright report`."""

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
    """Write a report on saved runs.

    Args:
        paths: run folders.
        kind: a key of `FORMATS`.
        output: the file to write or overwrite, or `-` for standard output; the default is
            `report.<kind>` in the first run folder.

    Returns:
        The file written, or None for standard output.

    Raises:
        ConfigError: a folder is missing or is not a run folder.
        CheckpointError: a file in a run folder is damaged.
        RunError: the report cannot be written.
        ReportError: the page would be too large.
        MissingPackageError: the format is html and plotly is not installed.
    """
    # UTF-8 for every terminal; lone surrogates, which names in a file can contain, are escaped.
    content = FORMATS[kind](read_runs(paths)).encode("utf-8", "backslashreplace")
    if output == Path("-"):
        sys.stdout.buffer.write(content)
        return None
    target = output or paths[0] / f"report.{kind}"
    if os.path.isdir(target):
        raise RunError(target, "cannot be written: it is a folder; give the name of a file")
    try:
        if output is not None and target.exists() and not target.is_file():
            target.write_bytes(content)  # do not replace a pipe or a device by a file
        else:
            write_atomically(target, content)
    except OSError as error:
        raise RunError(target, f"cannot be written: {error.strerror}") from error
    return target
