"""What `apply` logs: how much became sparse, what stayed dense, and what is unusual in that."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from sparsewright.session.parameter import SparseParameter
from sparsewright.session.parametrized import keeps_zeros

logger = logging.getLogger("sparsewright")


def log_summary(
    name: str, parameters: Collection[SparseParameter], left_dense: Mapping[str, int]
) -> None:
    """Log one line about a model that an algorithm was applied to.

    Args:
        name: of the algorithm.
        parameters: its sparse parameters.
        left_dense: how many parameters of each kind stay dense.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    total = sum(p.shape.numel() for p in parameters)
    text = f"{name}: {len(parameters)} sparse weight{'s' if len(parameters) != 1 else ''}"
    if all(p.is_initialized for p in parameters):
        kept = sum(p.kept for p in parameters)
        level = 1 - kept / max(total, 1)
        text += f", {kept:,} of {total:,} entries kept (level {level:.4f})"
    else:
        text += f" with {total:,} entries, masks to be made when they have data"
    logger.info("%s%s", text, show_left_dense(left_dense))


def show_left_dense(left_dense: Mapping[str, int]) -> str:
    """Return counts of kinds as the end of a sentence; "" if there are none.

    >>> show_left_dense({"norms": 2, "": 1, "embeddings": 1})
    '; left dense: norms 2, embeddings 1'
    """
    shown = ", ".join(f"{kind} {count}" for kind, count in left_dense.items() if kind)
    return f"; left dense: {shown}" if shown else ""


def warn_of_picked(
    picked: Iterable[tuple[str, nn.Module, nn.Parameter]], params: Iterable[Tensor]
) -> None:
    """Log warnings about weights that a filter of the user's picks, and that may surprise.

    Those are frozen weights beside others that are trained, and parameters of which parametrized
    weights are computed that have other zeros.

    Args:
        picked: full name, owner and parameter of each weight that becomes sparse.
        params: all parameters of the model.
    """
    weights = list(picked)
    frozen = [name for name, _, param in weights if not param.requires_grad]
    if frozen and any(param.requires_grad for param in params):
        text = "frozen weights become sparse, because a param_filter picks them: %s"
        logger.warning(text, ", ".join(frozen))
    for name, owner, _ in weights:
        if not keeps_zeros(owner, name.rpartition(".")[2]):
            text = "%s becomes sparse; the weight that is computed from it does not"
            logger.warning(text, name)
