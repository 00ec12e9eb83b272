"""Weight decay of compressed weights, which loops over parameters take for vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch.optim import Optimizer

from sparsewright.session.parameter import SparseParameter

logger = logging.getLogger("sparsewright")


def log_lost_decay(optimizer: Optimizer, parameters: Iterable[SparseParameter]) -> None:
    """Log a warning if values of compressed weights stand with the vectors, which do not decay.

    They have one dimension. A loop that puts matrices (`p.ndim >= 2`) in the group with weight
    decay puts them in the other one.

    Args:
        optimizer: an optimizer, some of whose groups may have weight decay.
        parameters: sparse parameters that it steps.
    """
    decays = [group.get("weight_decay") or 0.0 for group in optimizer.param_groups]
    largest = max(decays, default=0.0)
    vectors = {
        id(param)
        for group, decay in zip(optimizer.param_groups, decays, strict=True)
        for param in group["params"]
        if not decay and all(each.ndim < 2 for each in group["params"])
    }
    lost = [p.name for p in parameters if p.param.ndim < len(p.shape) and id(p.param) in vectors]
    if largest and lost:
        logger.warning(
            "%s and %d more: no weight decay, though another group of %s has %g. The values of a "
            "compressed weight have one dimension: count them as weights when you make groups by "
            "`ndim`, or make the optimizer before the model is compressed",
            *(lost[0], len(lost) - 1, type(optimizer).__name__, largest),
        )
