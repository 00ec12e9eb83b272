"""Names of the entries of a state dict."""

from __future__ import annotations

MASK_SUFFIX = "_mask"
"""What the name of a weight's mask ends in."""


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key under which block 10 comes after block 9.

    >>> sorted(["blocks.10.w", "blocks.9.w", "blocks.norm"], key=natural_order)
    ['blocks.norm', 'blocks.9.w', 'blocks.10.w']
    """
    return [(len(part) if part.isdecimal() else 0, part) for part in name.split(".")]
