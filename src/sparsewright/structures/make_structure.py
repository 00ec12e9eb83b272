"""Structures from what a user gives for one: a name, a dict, a score shaper."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparsewright.core.options import make_of_type
from sparsewright.core.rows import Unstructured, as_structure
from sparsewright.core.structure import ScoreShaper, Structure
from sparsewright.errors import OptionTypeError
from sparsewright.structures.groups import Groups
from sparsewright.structures.n_m import NM

ALL: tuple[type[Structure], ...] = (Unstructured, Groups, NM)
"""Every structure that configs know: a new one is a file and a name here."""

StructureLike = str | Mapping[str, object] | ScoreShaper | None
"""A name, `"n:m"`, a dict with `type`, a structure, a score shaper; None: unstructured."""


def make_structure(structure: StructureLike) -> Structure:
    """Return the structure that a value stands for.

    Args:
        structure: a name in any case; `"2:4"`; a dict `{"type": name, ...}` with the arguments; a
            structure or a score shaper; None: all entries compete.

    Raises:
        OptionError: unknown type or argument, or one missing.
        OptionTypeError: anything else.

    >>> make_structure("2:4"), make_structure({"type": "groups", "inputs": 4})
    (NM(2, 4), Groups(inputs=4))
    """
    if structure is None or isinstance(structure, ScoreShaper):
        return as_structure(structure)
    if isinstance(structure, str):
        ratio = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", structure)
        return NM(*map(int, ratio.groups())) if ratio else make_structure({"type": structure})
    if isinstance(structure, Mapping):
        return make_of_type("structure", structure, ALL)
    raise OptionTypeError(
        "structure",
        structure,
        "a name, 'n:m' (quoted in YAML), a dict with 'type', a Structure or a ScoreShaper",
    )
