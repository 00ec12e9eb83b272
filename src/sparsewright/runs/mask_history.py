"""A run's record of its masks: a few snapshots, and the rows in which connections ever grew.

A snapshot is a safetensors file `masks/<step>.safetensors` that maps parameter names to masks as
bits (see `sparsewright.pack_masks`). Its metadata key `sparsewright` holds JSON with `step` and
`layers`. `layers` gives each weight's `shape`, its choices (`algorithm`, `paper`, `distribution`,
`structure` and `storage`), the dimensions `dims` of its outputs and its inputs, and the level
`target` that its first mask should have.

The overlap of two consecutive masks can be computed without snapshots, from the counts of kept,
dropped and grown connections in the `mask_update` lines of metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.packing import pack_mask
from sparsewright.core.rows import Unstructured
from sparsewright.errors import StateError
from sparsewright.events import MaskUpdate
from sparsewright.group import Group
from sparsewright.session.parameter import SparseParameter

# A run has at most 20 sets of masks: these snapshots, the initial masks and the final masks.
_PARTS = 18


def is_snapshot_due(step: int, last: int, steps: int) -> bool:
    """Return whether to save a snapshot after an update: the first in each 18th of a run is saved.

    Args:
        step: optimizer steps completed.
        last: step of the previous snapshot.
        steps: steps of the whole run.

    >>> [step for step in range(1, 37) if is_snapshot_due(step, step - 1, 36)][:4]
    [2, 4, 6, 8]
    """
    return step * _PARTS // steps > last * _PARTS // steps


class MaskHistory:
    """Follow the masks during training.

    A row is an index into a weight's first dimension: an output of a linear layer, or an output
    channel of a convolution.

    Attributes:
        grown_rows: name -> bool `[rows]`, True for rows in which a connection has grown so far.
    """

    def __init__(self, group: Group) -> None:
        self._algorithms: dict[str, SparsityAlgorithm] = {}
        self._parameters: dict[str, SparseParameter] = {}
        for algorithm in group.algorithms:
            for name, parameter in algorithm.sparse_params.items():
                self._parameters[name] = parameter
                self._algorithms[name] = algorithm
        self.grown_rows = {
            name: torch.zeros(parameter.shape[0], dtype=torch.bool)
            for name, parameter in self._parameters.items()
        }
        self._targets = {name: self._first_target(name) for name in self._parameters}
        self._remember()

    def _first_target(self, name: str) -> float:
        """Return the level that a weight's initial mask should have; 0 if training starts dense."""
        algorithm = self._algorithms[name]
        starts_sparse = 0 in algorithm.update_steps(0)
        return float(algorithm.level_at(self._parameters[name], 0)) if starts_sparse else 0.0

    def _remember(self) -> None:
        self._before = {name: _row_bits(p.mask) for name, p in self._parameters.items()}

    def record(self, update: MaskUpdate) -> dict[str, int]:
        """Record one update of one parameter.

        Returns:
            The counts `rows`, `dead_rows` (rows without a live connection) and `never_grown_rows`
            (rows in which no connection has grown so far; initial connections may still be live).
        """
        before, after = self._before[update.name], _row_bits(self._parameters[update.name].mask)
        grown = self.grown_rows[update.name]
        grown |= torch.from_numpy((after & ~before).any(axis=1))
        self._before[update.name] = after
        return {
            "rows": len(grown),
            "dead_rows": int((~after.any(axis=1)).sum()),
            "never_grown_rows": int((~grown).sum()),
        }

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the masks as bits, and the shape and choices of each weight."""
        bits = {name: pack_mask(p.mask) for name, p in self._parameters.items()}
        layers = {
            name: {
                "shape": list(p.shape),
                "dims": [p.structure.out_dim, p.structure.in_dim],
                "target": self._targets[name],
                **_facts(self._algorithms[name], p),
            }
            for name, p in self._parameters.items()
        }
        return bits, layers

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs in addition to the masks."""
        return dict(self.grown_rows)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a `state`, and take the parameters' current masks as the previous masks.

        Raises:
            StateError: the state belongs to other parameters.
        """
        for name, rows in self.grown_rows.items():
            if name not in state or state[name].shape != rows.shape:
                problem = f"it has no rows for {name}, or another number of rows"
                raise StateError("the mask history", problem)
            rows.copy_(state[name])
        self._remember()


def _facts(algorithm: SparsityAlgorithm, parameter: SparseParameter) -> dict[str, str]:
    """Return the choices of a weight as text; a default distribution or structure is ""."""
    distribution, structure = algorithm.distribution, algorithm.structure
    return {
        "algorithm": type(algorithm).__name__,
        "paper": algorithm.paper,
        "distribution": "" if distribution.is_uniform else distribution.name,
        "structure": "" if structure.name == Unstructured.name else repr(structure),
        "storage": parameter.storage.name,
    }


def _row_bits(mask: Tensor) -> NDArray[np.uint8]:
    """Pack a mask into bits `[rows, ceil(columns / 8)]`, each row padded with zeros."""
    # With zero rows, reshape cannot infer the number of columns from -1.
    return np.packbits(mask.cpu().reshape(mask.shape[0], mask.shape[1:].numel()).numpy(), axis=1)
