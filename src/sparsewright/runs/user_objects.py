"""Objects of the user's own modules, named on the command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

from sparsewright.errors import ConfigError
from sparsewright.wording import hint


def load_object(spec: str, allowed: str) -> Any:
    """What `module:name` names; modules in the current directory can be imported too.

    Args:
        spec: `module:name`; the name may have dots.
        allowed: what such a thing looks like, for the error.

    Raises:
        ConfigError: it cannot be imported.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ConfigError(spec, f"allowed: {allowed}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module runs, and may do anything
        raise ConfigError(spec, f"importing it failed: {one_line(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError(spec, f"{module_name} has no {path!r}{hint(name, dir(found))}")
        found = getattr(found, name)
    return found


def one_line(error: BaseException) -> str:
    """An error of somebody else's code: its class and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
