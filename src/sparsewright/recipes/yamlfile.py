"""Reading YAML strictly: duplicate keys are errors, `3e-3` is a number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sparsewright.core.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, without YAML 1.1's two silent surprises."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A dict; raises on a key that is given twice, where the last one would win silently."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a signed exponent in a float; YAML 1.2 and everyone else do not.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_any_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file cannot be read, or is not YAML (with line and column).
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "not valid YAML"
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(path, f"{place}{problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(path, f"not a YAML file: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: as `read_any_yaml` raises, or it is not a mapping.
    """
    content = read_any_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(path, f"holds a {kind}; allowed: a mapping of section: values")
    return content
