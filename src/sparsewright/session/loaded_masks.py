"""What is said when weights are loaded without masks before the first step."""

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
    """Warn, once, that a mask was made anew from a weight that was loaded, if it has changed.

    Args:
        session: what holds the parameter.
        parameter: the one whose weight was loaded.
        before: its mask until then.
    """
    mask = sharded.local(parameter.mask)
    dropped, grown = kernels.count_changes(before, mask)
    if dropped or grown:
        session.tell_once(
            "masks made anew",
            f"{parameter.name}: no step was made yet and the state dict has no mask, so the mask "
            f"is made anew from the loaded weight ({grown} of {int(mask.sum())} connections are "
            "new), and so are the masks of other weights in the state dict; to keep the masks (to "
            "rewind to initial weights, say), load {**model.state_dict(), **state_dict}",
        )


def note_kept(session: Session, parameter: SparseParameter) -> None:
    """Warn, once, that a compressed weight keeps a mask that other weights have decided."""
    if reads_weights(parameter.rule.init_method):
        session.tell_once(
            "masks kept",
            f"{parameter.name}: it is compressed and the state dict has no mask, so it keeps the "
            "mask that was made from the weight before it, and so do other compressed weights in "
            "the state dict; to have masks made from the loaded weights, load before apply",
        )
