"""Construction of structures from user options: a name, a dict or a score shaper."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparsewright.core.options import make_of_type
from sparsewright.core.rows import Unstructured, as_structure
from sparsewright.core.structure import ScoreShaper, Structure
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.structures.block import Block
from sparsewright.structures.channel import Channel
from sparsewright.structures.fan_in import FanIn
from sparsewright.structures.groups import Groups
from sparsewright.structures.n_m import NM

ALL: tuple[type[Structure], ...] = (Unstructured, Groups, NM, Block, Channel, FanIn)
"""The structures that a config can name. To add one, write its file and add it here."""

StructureLike = str | Mapping[str, object] | ScoreShaper | None
"""A name, `"n:m"`, a dict with `type`, a structure, a score shaper; None: unstructured."""


def make_structure(structure: StructureLike) -> Structure:
    """Build a structure from a user option.

    Args:
        structure: a name, in upper or lower case; `"2:4"`; a dict `{"type": name, ...}` with the
            constructor arguments; a structure or a score shaper; None: all entries compete.

    Raises:
        OptionError: the type or an argument is unknown, or an argument is missing.
        OptionTypeError: `structure` has any other type.

    >>> make_structure("2:4"), make_structure({"type": "groups", "inputs": 4})
    (NM(2, 4), Groups(inputs=4))
    """
    if structure is None or isinstance(structure, ScoreShaper):
        return as_structure(structure)
    if isinstance(structure, str):
        ratio = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", structure)
        if ratio:
            n, m = map(int, ratio.groups())
            return NM(n, m)
        names = [each.name for each in ALL]
        if structure.lower() not in names:
            advice = "You can also give a pattern n:m, such as '2:4'."
            raise OptionError("structure", structure, names, advice=advice)
        return make_structure({"type": structure})
    if isinstance(structure, Mapping):
        return make_of_type("structure", structure, ALL)
    raise OptionTypeError(
        "structure",
        structure,
        "a name, 'n:m' (quoted in YAML), a dict with 'type', a Structure or a ScoreShaper",
    )
