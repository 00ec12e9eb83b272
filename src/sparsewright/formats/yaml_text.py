"""Strict YAML: duplicate keys are errors, `3e-3` is a number, and alias bombs are rejected."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MOST_NODES = 100_000
"""Limit for the number of values in a document; an alias counts as all values it refers to."""


class _StrictLoader(yaml.SafeLoader):
    """Load YAML safely, reject duplicate keys, and limit the number of values."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; raise an error after `MOST_NODES` nodes."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            problem = f"more than {MOST_NODES:,} values"
            parser: Any = self  # its stubs declare no types
            mark = parser.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a dict; raise an error on a duplicate key, which YAML would silently accept."""
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


# YAML 1.1 requires a dot and a signed exponent in a float; YAML 1.2 does not.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(content: bytes) -> Any:
    """Return the value of the single document in a YAML file, or None if the file is empty.

    Raises:
        ValueError: the content is not valid YAML (the message gives line and column), has too
            many values, or is nested too deeply.
    """
    try:
        return _load(content)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "not valid YAML"
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # PyYAML leaks errors of int(), date() and others
        raise ValueError(f"cannot read a value: {error}") from error


def _load(content: bytes) -> Any:
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
    """Count a node and all nodes below it; an alias counts as all nodes it refers to.

    Raises:
        yaml.YAMLError: there are more than `MOST_NODES` nodes, or a node contains itself.
    """
    if id(node) not in known:
        known[id(node)] = MOST_NODES  # so that an alias to a node inside it exceeds the limit
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        total = 1 + sum(_count(child, known) for child in children)
        if total > MOST_NODES:
            mark = node.start_mark
            problem = f"aliases expand to more than {MOST_NODES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        known[id(node)] = total
    return known[id(node)]
