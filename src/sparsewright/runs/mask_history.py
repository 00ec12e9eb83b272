"""What a run keeps of its masks besides the last ones: a few snapshots, and which rows ever grew.

A snapshot is a safetensors file `masks/<step>.safetensors`: parameter name -> mask as bits (see
`sparsewright.pack_masks`), with the metadata `sparsewright`: JSON with `step` and `layers`, name ->
`shape` and the choices of the weight: `algorithm`, `paper`, `distribution`, `structure`, `storage`.
How much two consecutive masks overlap needs no snapshot: the lines `mask_update` in metrics.jsonl
have kept, dropped and grown.
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

# With the first masks and the trained weights this makes at most 20 masks of a run.
_PARTS = 18


def is_snapshot_due(step: int, last: int, steps: int) -> bool:
    """Whether the masks of an update go into a snapshot: the first update in each part of a run.

    Args:
        step: optimizer steps completed.
        last: step of the snapshot before.
        steps: steps of the whole run.

    >>> [step for step in range(1, 37) if is_snapshot_due(step, step - 1, 36)][:4]
    [2, 4, 6, 8]
    """
    return step * _PARTS // steps > last * _PARTS // steps


class MaskHistory:
    """Follows the masks of a training.

    A row is an entry of a weight's first dimension: an output of a linear layer, an output
    channel of a convolution.

    Attributes:
        grown_rows: name -> bool `[rows]`: rows in which a connection was grown so far.
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
        self._remember()

    def _remember(self) -> None:
        self._before = {name: _row_bits(p.mask) for name, p in self._parameters.items()}

    def record(self, update: MaskUpdate) -> dict[str, int]:
        """Follow one update of one parameter.

        Returns:
            `rows`, `dead_rows` (no live connection now) and `never_grown_rows` (no connection
            grown so far; those that the first mask had may live).
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
        """The masks as bits, and for each its shape and choices."""
        bits = {name: pack_mask(p.mask) for name, p in self._parameters.items()}
        layers = {
            name: {"shape": list(p.shape), **_facts(self._algorithms[name], p)}
            for name, p in self._parameters.items()
        }
        return bits, layers

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the masks."""
        return dict(self.grown_rows)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, with the masks that the parameters have now.

        Raises:
            StateError: it is of other parameters.
        """
        for name, rows in self.grown_rows.items():
            if name not in state or state[name].shape != rows.shape:
                raise StateError("the history of masks", f"no rows of {name}")
            rows.copy_(state[name])
        self._remember()


def _facts(algorithm: SparsityAlgorithm, parameter: SparseParameter) -> dict[str, str]:
    """The choices of a weight as text: "" for a distribution or structure that is the default."""
    distribution, structure = algorithm.distribution, algorithm.structure
    return {
        "algorithm": type(algorithm).__name__,
        "paper": algorithm.paper,
        "distribution": "" if distribution.is_uniform else distribution.name,
        "structure": "" if structure.name == Unstructured.name else repr(structure),
        "storage": parameter.storage.name,
    }


def _row_bits(mask: Tensor) -> NDArray[np.uint8]:
    """A mask as bits `[rows, ceil(columns / 8)]`, each row padded with zeros."""
    # Not -1 columns: without rows that could be any number.
    return np.packbits(mask.cpu().reshape(mask.shape[0], mask.shape[1:].numel()).numpy(), axis=1)
