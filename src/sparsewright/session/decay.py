"""A warning for compressed weights that lost their weight decay."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch.optim import Optimizer

from sparsewright.session.parameter import SparseParameter

logger = logging.getLogger("sparsewright")


def log_lost_decay(optimizer: Optimizer, parameters: Iterable[SparseParameter]) -> None:
    """Log a warning if compressed weights are in a parameter group without weight decay.

    The values of a compressed weight have one dimension. Code that applies weight decay only to
    matrices (`p.ndim >= 2`) treats them as biases. A group that also holds a matrix, or an
    optimizer without any weight decay, causes no warning.

    Args:
        optimizer: the optimizer.
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
            "%s and %d more: these compressed weights have no weight decay, but another parameter "
            "group of %s has weight_decay=%g. Their values have one dimension; when you group "
            "parameters by `ndim`, treat them as weights, or create the optimizer before you "
            "compress the model",
            *(lost[0], len(lost) - 1, type(optimizer).__name__, largest),
        )
