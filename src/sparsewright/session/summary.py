"""Log lines of `apply`: how much became sparse, what stayed dense, and surprising choices."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from sparsewright.session.parameter import SparseParameter
from sparsewright.session.parametrized import keeps_zeros
from sparsewright.wording import first_of

logger = logging.getLogger("sparsewright")


def log_summary(
    name: str, parameters: Collection[SparseParameter], left_dense: Mapping[str, int]
) -> None:
    """Log one line about a model that an algorithm was applied to.

    Args:
        name: name of the algorithm.
        parameters: its sparse parameters.
        left_dense: number of parameters of each kind that stay dense.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    total = sum(p.shape.numel() for p in parameters)
    text = f"{name}: {len(parameters)} sparse weight{'s' if len(parameters) != 1 else ''}"
    if all(p.is_initialized for p in parameters):
        kept = sum(p.kept for p in parameters)
        if total:
            text += f", {kept:,} of {total:,} entries kept (level {1 - kept / total:.4f})"
    else:
        text += f" with {total:,} entries; masks will be created when the weights have data"
    logger.info("%s%s", text, show_left_dense(left_dense))


def show_left_dense(left_dense: Mapping[str, int]) -> str:
    """Return the end of a sentence that lists counts by kind; "" if there are none.

    >>> show_left_dense({"norms": 2, "": 1, "embeddings": 1})
    '; left dense: norms (2), embeddings (1)'
    """
    shown = ", ".join(f"{kind} ({count})" for kind, count in left_dense.items() if kind)
    return f"; left dense: {shown}" if shown else ""


def warn_of_picked(
    picked: Iterable[tuple[str, nn.Module, nn.Parameter]], params: Iterable[Tensor]
) -> None:
    """Log warnings about surprising weights that the user's filter picks.

    These are frozen weights in a model that also has trained ones, and parameters whose
    parametrization does not preserve zeros.

    Args:
        picked: (full name, owner, parameter) for each weight that becomes sparse.
        params: all parameters of the model.
    """
    weights = list(picked)
    frozen = [name for name, _, param in weights if not param.requires_grad]
    if frozen and any(param.requires_grad for param in params):
        text = (
            "frozen weights become sparse because a param_filter picks them: %s; "
            "to keep them dense, exclude them from the filter"
        )
        logger.warning(text, first_of(frozen))
    for name, owner, _ in weights:
        if not keeps_zeros(owner, name.rpartition(".")[2]):
            text = (
                "%s becomes sparse, but its parametrization does not preserve zeros, so the "
                "computed weight is not sparse; exclude it from the param_filter"
            )
            logger.warning(text, name)
