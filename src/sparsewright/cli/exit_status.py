"""Error output and exit status of the commands."""

from __future__ import annotations

import functools
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sparsewright.cli.printing import printable
from sparsewright.errors import (
    ConfigError,
    LevelError,
    OptionError,
    OptionTypeError,
    ReportError,
    ShapeError,
    SparsewrightError,
)

FILE = click.Path(path_type=Path)
FAILURE, MISUSE, INTERRUPTED = 1, 2, 130
_USAGE = (ConfigError, LevelError, OptionError, OptionTypeError, ReportError, ShapeError)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line on stderr."""
    click.echo(printable(f"warning: {message}"), err=True)


def _escape_what_cannot_be_encoded() -> None:
    """Escape characters in file and parameter names that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def reports_errors(command: Callable[..., int]) -> Callable[..., None]:
    """Add `--debug` to a command, and turn its exceptions into one line and an exit status."""

    @click.option("--debug", is_flag=True, help="Show tracebacks, and log skipped parameters.")
    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool, **options: Any) -> None:
        warnings.showwarning = _show_warning
        _escape_what_cannot_be_encoded()
        if debug:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("sparsewright").setLevel(logging.INFO)
        try:
            status = command(*args, **options)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            status = INTERRUPTED
        except Exception as error:  # the last frame: print one line, not a traceback
            if debug:
                traceback.print_exc()
            known = isinstance(error, SparsewrightError)
            name = "" if known else f"{type(error).__name__}: "
            hint = "" if known or debug else " (run with --debug for a traceback)"
            click.echo(printable(f"error: {name}{error}{hint}"), err=True)
            status = MISUSE if isinstance(error, _USAGE) else FAILURE
        sys.exit(status)

    return wrapper
