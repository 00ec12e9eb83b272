"""Names of state dict entries."""

from __future__ import annotations

MASK_SUFFIX = "_mask"
"""Suffix that turns a weight's name into the name of its mask."""


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts block 10 after block 9.

    >>> sorted(["blocks.10.w", "blocks.9.w", "blocks.norm"], key=natural_order)
    ['blocks.norm', 'blocks.9.w', 'blocks.10.w']
    """
    return [(len(part) if part.isdecimal() else 0, part) for part in name.split(".")]
