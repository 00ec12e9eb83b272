"""Warnings for weights that are loaded without masks before the first step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from torch import Tensor

from sparsewright import kernels
from sparsewright.init import reads_weights
from sparsewright.kernels import sharded
from sparsewright.session.parameter import SparseParameter

if TYPE_CHECKING:
    from sparsewright.session.session import Session

logger = logging.getLogger("sparsewright")


def note_made_anew(session: Session, parameter: SparseParameter, before: Tensor) -> None:
    """Log once that a mask was recomputed from a loaded weight, if the mask changed.

    Args:
        session: the session of the parameter.
        parameter: the parameter whose weight was loaded.
        before: its mask before loading.
    """
    mask = sharded.local(parameter.mask)
    dropped, grown = kernels.count_changes(before, mask)
    if dropped or grown:
        session.tell_once(
            "masks recomputed",
            f"{parameter.name}: the state dict has no mask and training has not started, so the "
            f"mask was recomputed from the loaded weight ({grown} of {int(mask.sum())} connections "
            "are new), and other weights in the state dict get new masks too; to keep the current "
            "masks, for example to rewind to initial weights, load "
            "{**model.state_dict(), **state_dict}",
        )


def note_kept(session: Session, parameter: SparseParameter) -> None:
    """Log once that a compressed weight keeps a mask that was computed from other values."""
    if reads_weights(parameter.rule.init_method):
        session.tell_once(
            "masks kept",
            f"{parameter.name}: the state dict has no mask and the weight is compressed, so it "
            "keeps the mask that was computed from its earlier values, and so do other compressed "
            "weights in the state dict; to compute masks from the loaded weights, load them before "
            "you call apply()",
        )
