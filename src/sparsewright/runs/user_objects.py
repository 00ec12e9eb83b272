"""Import objects from the user's modules by name."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

from sparsewright.errors import ConfigError
from sparsewright.wording import hint


def load_object(spec: str, allowed: str) -> Any:
    """Import the object named by `module:name`, also from the current directory.

    Args:
        spec: `module:name`; the name may have dots.
        allowed: the expected form with an example, for the error message.

    Raises:
        ConfigError: the object cannot be imported.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ConfigError(spec, f"expected {allowed}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module can raise any exception
        raise ConfigError(spec, f"the import failed: {one_line(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError(spec, f"{module_name} has no {path!r}{hint(name, dir(found))}")
        found = getattr(found, name)
    return found


def one_line(error: BaseException) -> str:
    """Return the class and message of an error from user code, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
