"""SynFlow, which scores weights by the flow through a model, without data."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.calibration.rounds import check_rounds, score_in_rounds, warn_of_empty
from sparsewright.calibration.scored_weights import tensors_at, weights_to_score
from sparsewright.calibration.untouched import untouched
from sparsewright.core.counts import Level
from sparsewright.core.filters import FilterLike, default_sparse_param_filter
from sparsewright.errors import CalibrationError, OptionTypeError
from sparsewright.session.placed import has_class
from sparsewright.torch_private import map_tensors
from sparsewright.wording import first_of

logger = logging.getLogger("sparsewright")

_NOT_LINEAR = re.compile(
    r"gelu|silu|swish|mish|glu$|(?<!r)elu$|tanh|sigmoid|softmax|softplus|"
    r"layernorm|groupnorm|instancenorm|attention|(lstm|gru)(cell)?$"
)


def synflow(
    model: nn.Module,
    example: object,
    *,
    rounds: int = 100,
    sparsity: Level,
    param_filter: FilterLike = default_sparse_param_filter,
) -> dict[str, Tensor]:
    """Return SynFlow scores: `w * dR/dw` in the model with the absolute value of every weight.

    R is the sum of the model's outputs for an input of ones. All parameters and buffers are
    replaced by their absolute values in float64, and the model runs in eval mode. Round i of n
    keeps the fraction `(1 - sparsity) ** (i / n)` of all weights together, those with the highest
    scores. The next round scores the model with only these weights. The result is the scores of
    the last round, in which the weights pruned before have the score 0.

    The method assumes layers that are linear for positive inputs, such as layers with ReLU. One
    warning names modules of other kinds, such as GELU, LayerNorm and attention.

    Args:
        model: the model, before training. It is not changed; see `snip`.
        example: an input of the model: a tensor, a tuple or list of positional arguments, or a
            mapping of keyword arguments. Only the shapes of floating-point tensors are used. Other
            tensors are passed on unchanged: token ids select rows of an embedding, and an
            attention mask hides padding.
        rounds: number of rounds n, 1 or more.
        sparsity: level of the last round, at least 0 and less than 1. Use the scores at this
            level.
        param_filter: which weights get scores, as for `snip`.

    Returns:
        `{full name: score}`, float64, with the weight's shape. Higher is better. One warning names
        the weights that keep no entry.

    Raises:
        AttachError, ScoreError: as for `snip`.
        CalibrationError: R overflows, or does not depend on a weight.
        LevelError: `sparsity` is out of range.
        OptionError: `rounds` is less than 1, or the filter picks no weight.
        OptionTypeError: `rounds` is not an integer, or the model's output has no tensor.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -3.0]]))
    >>> synflow(model, torch.zeros(1, 2), rounds=1, sparsity=0.5)
    {'weight': tensor([[2., 3.]], dtype=torch.float64)}

    Source: H. Tanaka et al., "Pruning neural networks without any data by iteratively conserving
    synaptic flow", arXiv:2006.05467.
    """
    check_rounds(rounds, sparsity)
    places = weights_to_score(model, param_filter)
    _warn_of_kinds(model)
    with untouched(model, _positive) as inner:
        weights, ones = tensors_at(places), map_tensors(_ones, _plain(example))
        scores, live = score_in_rounds(
            weights,
            lambda: _flow_gradient(inner, ones, weights),
            rounds=rounds,
            sparsity=sparsity,
            regrow=False,
        )
    warn_of_empty("SynFlow", sparsity, live)
    return scores


def _positive(tensor: Tensor) -> Tensor:
    return tensor.abs().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _ones(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return torch.ones_like(tensor, dtype=torch.complex128)
    return torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor


def _plain(example: object) -> tuple[Any, ...] | dict[str, Any]:
    """Return the arguments of the model's forward: a tuple by position, or a dict by keyword."""
    if isinstance(example, Mapping):
        return dict(example)
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def _flow_gradient(
    model: nn.Module, inputs: tuple[Any, ...] | dict[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the gradient of the model's summed output by each weight.

    Raises:
        CalibrationError: the sum overflows, or does not depend on a weight.
    """
    flow = _total(model(**inputs) if isinstance(inputs, dict) else model(*inputs))
    total = float(flow.detach())
    if not math.isfinite(total):
        problem = f"the sum of its outputs is {total}; SynFlow needs a finite sum in float64"
        raise CalibrationError(type(model).__name__, problem)
    tensors = list(weights.values())
    found = torch.autograd.grad(flow, tensors, allow_unused=True) if flow.requires_grad else ()
    gradients = dict(zip(weights, found, strict=False))
    for name in weights:
        if gradients.get(name) is None:
            problem = "the output does not depend on it; pass a param_filter that excludes it"
            raise CalibrationError(name, problem)
    return gradients


def _total(output: Any) -> Tensor:
    """Return the sum of the logits if the output has them, otherwise of all its tensors."""
    sums: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() or tensor.is_complex():
            sums.append(torch.real(tensor.sum()).double())
        return tensor

    map_tensors(add, getattr(output, "logits", output))
    if not sums:
        allowed = "a tensor, or a tuple, list or dict of tensors"
        raise OptionTypeError("the output of the model", output, allowed)
    return torch.stack(sums).sum()


def _warn_of_kinds(model: nn.Module) -> None:
    """Log one warning that names the kinds of modules for which SynFlow is not made."""
    found = {type(module).__name__ for module in model.modules() if has_class(module, _NOT_LINEAR)}
    if found:
        logger.warning(
            "SynFlow assumes layers that are linear for positive inputs, such as layers with "
            "ReLU; this model has %s, so layers can lose all their entries at high sparsity",
            first_of(sorted(found)),
        )
