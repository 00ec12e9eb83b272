"""The weights of a model that get scores, and the product that scores them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewright.core.filters import FilterLike, default_sparse_param_filter, make_param_filter
from sparsewright.errors import AttachError, OptionError, ScoreError
from sparsewright.layers import as_compressed, dense_form
from sparsewright.session.roles import Picker
from sparsewright.session.walk import named_weights
from sparsewright.wording import first_of

Places = Mapping[str, tuple[nn.Module, str]]
"""A mapping `{full name: (owning module, name in that module)}`."""


def weights_to_score(
    model: nn.Module, param_filter: FilterLike = default_sparse_param_filter
) -> Places:
    """Return the weights that a filter picks, in the order of the model.

    Args:
        model: the model. PyTorch's wrappers do not change the names.
        param_filter: a glob, a list of globs or a function `(name, param) -> bool`.

    Raises:
        AttachError: a picked weight has no values yet, or is compressed; or no weight is sparse by
            default.
        OptionError: the filter picks no weight.
    """
    given = make_param_filter(param_filter)
    picker, names, places = Picker(model, [given]), list[str](), dict[str, tuple[nn.Module, str]]()
    for name, owner, own, param, why in named_weights(model):
        names.append(name)
        if is_lazy(param):
            raise AttachError(name, "it is lazy and has no shape yet; run one forward pass first")
        if why is None and picker.first(name, dense_form(owner, param)) is not None:
            _check(name, owner, param)
            places[name] = owner, own
    if not places and given is default_sparse_param_filter:
        problem = f"no weight is sparse by default; pass a param_filter for {first_of(names)}"
        raise AttachError(type(model).__name__, problem if names else "it has no parameters")
    if not places:
        advice = f"The parameters are {first_of(names)}." if names else ""
        allowed = "a filter that picks a weight"
        raise OptionError("param_filter", param_filter, allowed, advice=advice)
    return places


def _check(name: str, owner: nn.Module, param: Tensor) -> None:
    """Raise AttachError if a weight cannot have scores."""
    if param.is_meta:
        raise AttachError(name, "it is on the meta device; load its values first")
    if as_compressed(owner) is not None:
        problem = "it is compressed; call sparsewright.decompress(model) before you score it"
        raise AttachError(name, problem)


def tensors_at(places: Places) -> dict[str, Tensor]:
    """Return the tensors that modules now hold at some places, ready to be differentiated."""
    tensors = {}
    for name, (owner, own) in places.items():
        tensor = owner.get_parameter(own)
        tensors[name] = tensor.requires_grad_()
    return tensors


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return `weight * gradient`, in float32 or better.

    For complex weights this is the real part of `weight * conj(gradient)`: the derivative by a
    real factor of the weight.

    Args:
        weight: any shape, floating point or complex.
        gradient: shaped like the weight.

    >>> product(torch.tensor([1 + 2j]), torch.tensor([3 + 4j]))
    tensor([11.])
    """
    first, second = widened(weight.detach()), widened(gradient.detach())
    return (first * second.conj()).real if first.is_complex() else first * second


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_scores(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores as a dict.

    Raises:
        ScoreError: a score is NaN.
    """
    for name, score in scores.items():
        if bool(score.isnan().any()):
            raise ScoreError(f"the score of {name}")
    return dict(scores)
