"""Pictures of masks for the page's viewer, within a budget of bytes.

A picture contains the whole mask if it fits. Otherwise it contains a density map of the mask, and
all connections in one window in the middle of the mask.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

from sparsewright.formats.mask_bits import Mask, pack_bits
from sparsewright.report.mask_statistics import bits_per_weight, dead_rows, density
from sparsewright.report.read import Run

_ENOUGH = 3_000  # bytes that a picture should have; with less, fewer steps are shown
_TOO_FEW = 100  # bytes that are too few for a picture
_OVERHEAD = 150  # bytes of JSON around a picture
_FINAL_WEIGHT = 3  # bytes for a last mask, relative to the bytes for an earlier mask
_MOST_CELLS = 96
_ROWS_LISTED = 12


@dataclass
class Pictures:
    """Pictures of masks as values for JSON.

    Attributes:
        budget: remaining bytes.
        payloads: zlib streams in base64; equal streams are stored once.
        layers: run, layer, shape, matrix, dead rows and pictures by step, for each layer of each
            run.
    """

    budget: int
    payloads: list[str] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict, repr=False)

    def add(self, packed: bytes) -> int:
        """Store a payload, unless it is already stored, and return its index."""
        if packed not in self._known:
            self._known[packed] = len(self.payloads)
            self.payloads.append(base64.b64encode(packed).decode())
            self.budget -= len(self.payloads[-1])
        return self._known[packed]


def take_pictures(runs: list[Run], budget: int) -> Pictures:
    """Take pictures of the masks at several steps; the last masks come first.

    Args:
        runs: all runs of the report.
        budget: maximum number of bytes of JSON.
    """
    pictures = Pictures(budget)
    layers = [(number, run, name) for number, run in enumerate(runs) for name in run.layers]
    for number, run, name in layers:
        pictures.layers.append(_describe(number, run, name))
        pictures.budget -= 6 * len(name) + 2 * _OVERHEAD
    # Small layers go first, so that large layers can use the bytes that small ones leave.
    order = sorted(range(len(layers)), key=lambda i: layers[i][1].layers[layers[i][2]].total)
    most = pictures.budget // (_ENOUGH * max(1, len(layers))) - _FINAL_WEIGHT + 1
    jobs = [(i, layers[i][1].last_step, _FINAL_WEIGHT) for i in order]
    jobs += [(i, step, 1) for i in order for step in _earlier(layers[i][1], most)]
    left = sum(weight for _, _, weight in jobs)
    for index, step, weight in jobs:
        share = pictures.budget * weight // left - _OVERHEAD
        left -= weight
        if share > _TOO_FEW:
            _, run, name = layers[index]
            taken = _picture(pictures, run, name, step, share)
            pictures.layers[index]["pictures"].append({"step": step, **taken})
            pictures.budget -= _OVERHEAD
    for entry in pictures.layers:
        entry["pictures"].sort(key=lambda picture: picture["step"])
    return pictures


def _describe(number: int, run: Run, name: str) -> dict[str, Any]:
    layer, dead = run.layers[name], dead_rows(run.mask(name))
    unit = layer.pattern.unit if layer.pattern else None
    return {
        "run": number,
        "layer": name,
        "shape": list(layer.shape),
        "matrix": list(layer.matrix),
        "structure": layer.structure,
        **({"unit": list(unit)} if unit else {}),
        "dead": dead[:_ROWS_LISTED].tolist(),
        "dead_count": len(dead),
        "pictures": [],
    }


def _earlier(run: Run, most: int) -> list[int]:
    """Return at most `most` evenly spaced steps before the last masks, including the first step."""
    steps = sorted(run.bits)[:-1]
    if most <= 0 or not steps:
        return []
    count = min(most, len(steps))
    return sorted({steps[i * len(steps) // count] for i in range(count)})


def _picture(pictures: Pictures, run: Run, name: str, step: int, share: int) -> dict[str, Any]:
    """Take a picture of a mask, with one cell per unit if each unit is live or pruned as a whole.

    A picture of units has the unit's size, and its other numbers count units.
    """
    mask, pattern = run.mask(name, step), run.layers[name].pattern
    if pattern is None:
        return _take(pictures, mask, share)
    text, units = pattern.describe(mask), pattern.whole_units(mask)
    found = {"pattern": text} if text else {}
    pictures.budget -= len(text)
    if units is None:
        return found | _take(pictures, mask, share - len(text))
    return found | {"unit": pattern.unit} | _take(pictures, units, share - len(text))


def _take(pictures: Pictures, mask: Mask, share: int) -> dict[str, Any]:
    """Take a picture of a mask in at most `share` bytes: the whole mask, or density and window."""
    whole = _bits(mask, share)
    if whole is not None:
        return {"whole": pictures.add(whole)}
    # Densities hardly compress. Half of the share goes to the cells, and base64 adds a third.
    cells = max(4, min(_MOST_CELLS, math.isqrt(share * 3 // 8)))
    grid, peak = density(mask, cells)
    before = pictures.budget
    found = {
        "grid": list(grid.shape),
        "peak": float(f"{peak:.4g}"),
        "density": pictures.add(zlib.compress(grid.tobytes())),
    }
    return found | _window(pictures, mask, share - (before - pictures.budget))


def _window(pictures: Pictures, mask: Mask, share: int) -> dict[str, Any]:
    """Return the largest window in the middle of a mask that fits, or an empty dict."""
    entropy = bits_per_weight(int(mask.sum()), mask.size)
    side = math.isqrt(int(max(0, share) * 6 / max(entropy, 0.05)))
    while side >= 8:
        height, width = (min(side, size) for size in mask.shape)
        # A long weight gets a long window with the same number of connections.
        height = min(mask.shape[0], side * side // width)
        width = min(mask.shape[1], side * side // height)
        row, column = (mask.shape[0] - height) // 2, (mask.shape[1] - width) // 2
        packed = _bits(mask[row : row + height, column : column + width], share)
        if packed is not None:
            return {"window": [row, column, height, width], "bits": pictures.add(packed)}
        side = side * 9 // 10
    return {}


def _bits(mask: Mask, share: int) -> bytes | None:
    """Compress a mask's bits with zlib, or return None if the base64 text exceeds the share."""
    bits = pack_bits(mask).tobytes()
    # A sixteenth of the mask is enough to reject most masks that are too large.
    sample = bits[len(bits) * 15 // 32 : len(bits) * 17 // 32]
    if len(zlib.compress(sample)) * 16 > 2 * share:
        return None
    packed = zlib.compress(bits)
    return packed if -(-len(packed) // 3) * 4 <= share else None
