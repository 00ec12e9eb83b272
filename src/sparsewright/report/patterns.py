"""The pattern of a structured mask: its units in a picture, and a sentence about its counts.

A run records structures as text, such as `Block((4, 4))`, and this module reads that text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsewright.formats.mask_bits import Mask

Counts = NDArray[np.intp]


@dataclass(frozen=True)
class Pattern:
    """A structure together with the shape of the mask that it divides.

    Attributes:
        kind: name of the structure's class.
        numbers: the integers in the structure's text, in order.
        text: the structure's text.
        shape: the weight's shape.
        dims: dimensions of the weight that hold its outputs and its inputs.
    """

    kind: str
    numbers: tuple[int, ...]
    text: str
    shape: tuple[int, ...]
    dims: tuple[int, int] = (0, 1)

    @property
    def unit(self) -> tuple[int, int] | None:
        """Return the rows and columns of one unit in the mask as a matrix, or None without units.

        A unit is a block, a channel, or a group of connections that compete.
        """
        sides = self._sides()
        if sides is None:
            return None
        sizes = {self.dims[0]: sides[0], self.dims[1]: sides[1]}
        height, width = sizes[0], sizes[1] * math.prod(self.shape[2:])
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        fits = height >= 1 and width >= 1 and rows % height == 0 and columns % width == 0
        return (height, width) if fits else None

    def _sides(self) -> tuple[int, int] | None:
        """Return the outputs and the inputs of one unit."""
        outputs, inputs = (self.shape[dim] for dim in self.dims)
        if self.kind == "Block" and len(self.numbers) >= 2:
            return self.numbers[0], self.numbers[1]
        if self.kind == "NM" and len(self.numbers) >= 2:
            return (4 if "transposable=True" in self.text else 1), self.numbers[1]
        if self.kind == "Channel" and self.numbers:
            return (outputs, 1) if self.numbers[0] else (1, inputs)
        if self.kind == "Groups" and self.numbers and self.numbers[0]:
            groups = self.numbers[0]
            if "inputs" in self.text:
                return outputs, inputs // groups
            return outputs // groups, inputs
        return None

    def whole_units(self, mask: Mask) -> Mask | None:
        """Return which units are live, or None if a unit is live in part or has no fixed place.

        Args:
            mask: bool `[rows, columns]`.

        Returns:
            Bool `[rows / height, columns / width]`.
        """
        if self.kind not in ("Block", "Channel") or self.unit is None:
            return None
        live, full = _any_and_all(mask, self.unit)
        return live if np.array_equal(live, full) else None

    def describe(self, mask: Mask) -> str:
        """Return the counts that the structure is about, as a clause; "" for other structures.

        Args:
            mask: bool `[rows, columns]`.
        """
        if self.kind in ("Block", "Channel") and self.unit is not None:
            return self._of_units(mask, self.unit)
        entries = np.moveaxis(mask.reshape(self.shape), self.dims, (0, 1))
        entries = entries.reshape(*entries.shape[:2], -1)
        if self.kind == "NM" and self.unit is not None:
            return self._of_n_m(entries)
        if self.kind == "FanIn":
            return _of_neurons(entries.sum(axis=(1, 2)))
        if self.kind == "Groups" and self.unit is not None:
            groups, is_input = self.numbers[0], "inputs" in self.text
            split = np.array_split(entries, groups, axis=1 if is_input else 0)
            counts = np.array([part.sum() for part in split])
            return f"{_range(counts)} connections live in each of {groups:,} groups"
        return ""

    def _of_units(self, mask: Mask, unit: tuple[int, int]) -> str:
        live, full = _any_and_all(mask, unit)
        name = "blocks"
        if self.kind == "Channel":
            name = "inputs" if self.numbers[0] else "outputs"
        text = f"{int(live.sum()):,} of {live.size:,} {name} live"
        parts = int((live & ~full).sum())
        return f"{text}, {parts:,} of them in part" if parts else text

    def _of_n_m(self, entries: Mask) -> str:
        """Return how many groups have n live connections, along the inputs or in both directions.

        Args:
            entries: bool `[outputs, inputs, kernel positions]`.
        """
        n, m = self.numbers[:2]
        outputs, inputs, kernel = entries.shape
        groups = entries.reshape(outputs, inputs // m, m, kernel).sum(axis=2)
        text = f"{n} of {m} inputs live in {_share(groups == n)} groups"
        if "transposable=True" in self.text:
            groups = entries.reshape(outputs // m, m, inputs, kernel).sum(axis=1)
            text += f", and {n} of {m} outputs in {_share(groups == n)} groups"
        return text


def pattern_of(
    structure: str, shape: tuple[int, ...], dims: tuple[int, int] = (0, 1)
) -> Pattern | None:
    """Return the pattern of a structured mask, or None for an unstructured or empty mask.

    Args:
        structure: text of the structure, "" if the mask is unstructured.
        shape: the weight's shape.
        dims: dimensions of the weight that hold its outputs and its inputs.

    >>> pattern_of("Block((4, 4))", (8, 16)).unit, pattern_of("NM(2, 4)", (8, 16, 3)).unit
    ((4, 4), (1, 12))
    """
    name, _, arguments = structure.partition("(")
    if not structure or len(shape) < 2 or not math.prod(shape):
        return None
    numbers = tuple(map(int, re.findall(r"(?<![\d.])\d{1,9}(?![\d.])", arguments)))
    return Pattern(name, numbers, structure, shape, dims)


def _any_and_all(mask: Mask, unit: tuple[int, int]) -> tuple[Mask, Mask]:
    """Return which units have a live connection, and in which units all connections are live."""
    height, width = unit
    units = mask.reshape(mask.shape[0] // height, height, mask.shape[1] // width, width)
    return np.any(units, axis=(1, 3)), np.all(units, axis=(1, 3))


def _of_neurons(fan_in: Counts) -> str:
    """Return the numbers of live inputs per output neuron.

    >>> _of_neurons(np.array([3, 3, 0])), _of_neurons(np.array([3, 5, 4]))
    ('3 live inputs per neuron, 1 of 3 neurons without', '3 to 5 live inputs per neuron (median 4)')
    """
    live = fan_in[fan_in > 0]
    if not live.size:
        return "all neurons without live inputs"
    text = f"{_range(live)} live inputs per neuron"
    if live.min() < live.max():
        text += f" (median {np.median(live):g})"
    empty = fan_in.size - live.size
    return f"{text}, {empty:,} of {fan_in.size:,} neurons without" if empty else text


def _range(counts: Counts) -> str:
    """Return the smallest and the largest count, or the only count.

    >>> _range(np.array([1000, 1000])), _range(np.array([2, 4, 3]))
    ('1,000', '2 to 4')
    """
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _share(holds: NDArray[np.bool_]) -> str:
    """Return the share of the groups for which a condition holds, with their number.

    >>> _share(np.array([True, True])), _share(np.array([True, False]))
    ('all 2', '50.00% of 2')
    """
    count = f"{holds.size:,}"
    return f"all {count}" if holds.all() else f"{holds.mean():.2%} of {count}"
