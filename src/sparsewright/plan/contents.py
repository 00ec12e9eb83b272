"""What a plan holds: the entries of a configuration, and what becomes of each parameter."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.filters import ParamFilter
from sparsewright.layers import LayerKind
from sparsewright.plan.forecast import Forecast
from sparsewright.storage import Storage

Kept = tuple[int | None, int | None]
"""Live connections before the first step and after the last; None: not known before the weights."""


@dataclass(frozen=True)
class Entry:
    """One entry of the configuration: a filter and an algorithm.

    Attributes:
        place: where it is in the configuration.
        filter: what it picks.
        algorithm: the algorithm.
        forecast: what that will do.
        total: entries of all of its weights.
        kept: what stays of them.
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
        name: full name.
        shape: its shape.
        dtype: its dtype.
        kept: what stays of it; of a dense parameter all.
        entry: the entry that it goes to; None: it stays dense.
        reason: why it stays dense.
        storage: how it will be held; None: it stays dense.
        kind: the kind of its layer, if that can be compressed.
        why_masked: why it stays masked though it was to be compressed.
        is_frozen: whether it has no gradient.
        tied_to: the name under which the same parameter came before; "" if it did not.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    kept: Kept
    entry: Entry | None = None
    reason: str = ""
    storage: type[Storage] | None = None
    kind: LayerKind | None = None
    why_masked: str = ""
    is_frozen: bool = False
    tied_to: str = ""

    @property
    def total(self) -> int:
        """Entries."""
        return self.shape.numel()


@dataclass
class Plan:
    """What a configuration will do to a model.

    Attributes:
        entries: the entries, in order.
        weights: all parameters, in the model's order.
        flops: name of a weight ("": everything else) -> FLOPs of a forward pass; None: not known.
        per: what `flops` are counted for.
        states: numbers that the optimizer keeps for each that it steps.
        notes: what could not be found out, and why.
    """

    entries: list[Entry]
    weights: list[Weight]
    flops: dict[str, int] = field(default_factory=dict)
    per: str = ""
    states: int = 2
    notes: list[str] = field(default_factory=list)

    @property
    def sparse(self) -> list[Weight]:
        """The weights that become sparse."""
        return [weight for weight in self.weights if weight.entry is not None]

    def kept(self, phase: int) -> int | None:
        """Return what stays of all sparse weights: phase 0 at the start, 1 at the end."""
        counts = [entry.kept[phase] for entry in self.entries]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
