"""Reading YAML strictly: duplicate keys are errors, `3e-3` is a number, aliases do not explode."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sparsewright.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, without YAML 1.1's two silent surprises."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A dict; raises on a key that is given twice, where the last one would win silently."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
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


_MOST_NODES = 100_000


def _load(content: bytes) -> Any:
    """What the one document in a YAML file stands for."""
    loader = _StrictLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below a node and itself, an alias counting as what it stands for.

    Raises:
        yaml.YAMLError: more than any configuration has, or a node that contains itself.
    """
    if id(node) not in known:
        known[id(node)] = _MOST_NODES  # until it is known: what an alias inside of it stands for
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        total = 1 + sum(_count(child, known) for child in children)
        if total > _MOST_NODES:
            mark = node.start_mark
            raise yaml.MarkedYAMLError(problem="aliases without end", problem_mark=mark)
        known[id(node)] = total
    return known[id(node)]


def read_any_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file cannot be read, or is not YAML (with line and column).
    """
    try:
        return _load(path.read_bytes())
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "not valid YAML"
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(path, f"{place}{problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(path, f"not a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(path, "nested too deeply") from None
    except Exception as error:  # PyYAML passes on what int(), date() and the like raise
        raise ConfigError(path, f"a value that cannot be read: {error}") from error


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
