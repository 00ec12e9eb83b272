"""The inverse of a layer's Hessian, as the factor that SparseGPT uses."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from sparsewright.calibration.method import Layer
from sparsewright.errors import CalibrationError

_TRIES = 8
"""Number of dampings to try; the last one is 10**7 times the first."""

logger = logging.getLogger("sparsewright")


def damped(products: Tensor, damping: float) -> Tensor:
    """Return a Hessian with damping, in float64.

    Features that are always 0 get the mean of the others on the diagonal.

    Args:
        products: sum of `x x^T`: `[groups, features, features]`.
        damping: share of the mean of the diagonal to add to the diagonal.
    """
    hessian = products.double()
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    is_dead = diagonal == 0
    number = (~is_dead).sum(1, keepdim=True)
    mean = diagonal.sum(1, keepdim=True) / number.clamp(min=1)
    mean = torch.where(number == 0, 1.0, mean)
    added = torch.where(is_dead, mean, 0) + damping * mean
    return hessian + torch.diag_embed(added)


def inverse_factor(layer: Layer, damping: float) -> Tensor:
    """Return the upper Cholesky factor U of the inverse Hessian: `H^-1 = U^T U`.

    If H is not positive definite, ten times more damping is added until it is, and a warning says
    so. The factor is computed in float64.

    Returns:
        `[groups, features, features]` in the dtype of the layer's weight.

    Raises:
        CalibrationError: the Hessian is not positive definite with any damping that was tried.
    """
    products = layer.inputs.products
    assert products is not None
    for power in range(_TRIES):
        share = damping * 10**power
        lower, failed = torch.linalg.cholesky_ex(damped(products, share))
        if not bool(failed.any()):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not bool(failed.any()):
            if power:
                logger.warning(
                    "%s: the Hessian of its inputs is not positive definite with damping %g, so "
                    "damping %g is used; more calibration data may help",
                    *(layer.name, damping, share),
                )
            factor: Tensor = upper.to(layer.weight.dtype)
            return factor
    raise CalibrationError(
        layer.name,
        f"the Hessian of its inputs is not positive definite, even with damping {share:g}; check "
        "the calibration data, or use method 'wanda'",
    )
