"""Read configurations from YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsewright.errors import ConfigError
from sparsewright.formats.read_file import MOST_TEXT, read_up_to
from sparsewright.formats.yaml_text import parse_yaml


def read_any_yaml(path: Path) -> Any:
    """Read the content of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or is not YAML (with line and column).
    """
    try:
        return parse_yaml(read_up_to(path, MOST_TEXT))
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(path, str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file; an empty file gives an empty dict.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not hold a mapping.
    """
    content = read_any_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(path, f"expected a mapping of sections to values, got a {kind}")
    return content
