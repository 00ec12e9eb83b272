"""Dataclasses of a plan: configuration entries, parameters and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.counts import num_kept
from sparsewright.core.filters import ParamFilter
from sparsewright.layers import LayerKind
from sparsewright.plan.forecast import Forecast
from sparsewright.storage import Storage

Kept = tuple[int | None, int | None]
"""Live connections before the first step and after the last; None: unknown without the values."""


@dataclass(frozen=True)
class Entry:
    """One entry of the configuration: a filter and an algorithm.

    Attributes:
        place: path of the entry in the configuration.
        filter: selects the entry's parameters.
        algorithm: the algorithm.
        forecast: the algorithm's updates and levels over the run.
        total: number of elements in all selected weights together.
        kept: live connections in all selected weights together.
    """

    place: str
    filter: ParamFilter
    algorithm: SparsityAlgorithm
    forecast: Forecast
    total: int
    kept: Kept


@dataclass(frozen=True)
class Weight:
    """One parameter of the model.

    Attributes:
        name: full name of the parameter.
        shape: shape of the parameter.
        dtype: dtype of the parameter.
        kept: live connections; for a dense parameter, all of its elements.
        levels: the level that the distribution sets at the start and at the end; None if it depends
            on the weights' values.
        estimate: live connections for cost estimates; those of the level if `kept` is unknown.
        course: the estimate for each of the forecast's stretches; empty for a dense parameter.
        entry: the entry that makes the parameter sparse; None if it stays dense.
        reason: why the parameter stays dense.
        storage: the storage class; None if the parameter stays dense.
        kind: the layer's kind, if layers of this kind can be compressed.
        score_flops: FLOPs of scoring the structure's units in one selection of an update.
        why_level: why the parameter has its level, as a phrase; "" if it has the requested level.
        why_masked: why the parameter is masked although the entry asks for compression.
        is_frozen: True if the parameter has no gradient.
        tied_to: an earlier name of the same parameter; "" if this name is the first.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    kept: Kept
    levels: tuple[float | None, float | None] = (0.0, 0.0)
    estimate: tuple[int, int] = (0, 0)
    course: Sequence[int] = ()
    entry: Entry | None = None
    reason: str = ""
    storage: type[Storage] | None = None
    kind: LayerKind | None = None
    score_flops: int = 0
    why_level: str = ""
    why_masked: str = ""
    is_frozen: bool = False
    tied_to: str = ""

    @property
    def total(self) -> int:
        """Return the number of elements."""
        return self.shape.numel()

    @property
    def unused(self) -> Kept:
        """Return the connections that the level allows and the structure does not keep."""
        start, end = (
            None if count is None or level is None else num_kept(level, self.total) - count
            for count, level in zip(self.kept, self.levels, strict=True)
        )
        return start, end


@dataclass
class Plan:
    """The effect of a configuration on a model.

    Attributes:
        entries: the entries, in order.
        weights: all parameters, in the model's order.
        flops: FLOPs of a forward pass by weight name; "" holds all other FLOPs.
        per: the input that `flops` are counted for, such as "batch of 8".
        states: number of state values that the optimizer keeps for each trained value.
        notes: sentences about unknown numbers and about settings that are probably mistakes.
    """

    entries: list[Entry]
    weights: list[Weight]
    flops: dict[str, int] = field(default_factory=dict)
    per: str = ""
    states: int = 2
    notes: list[str] = field(default_factory=list)

    @property
    def sparse(self) -> list[Weight]:
        """Return the weights that become sparse."""
        return [weight for weight in self.weights if weight.entry is not None]

    def kept(self, phase: int) -> int | None:
        """Return the live connections in all sparse weights, or None if any count is unknown.

        Args:
            phase: 0 for the start of the run, 1 for the end.
        """
        counts = [entry.kept[phase] for entry in self.entries]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
