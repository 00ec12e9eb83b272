"""The place of each parameter in a model: its layer, its owner and its names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from sparsewright.layers import dense_form, dims_of
from sparsewright.session.walk import named_modules, named_weights
from sparsewright.torch_private import memory_id

_LAYER = re.compile(r"(linear|dense|conv(transpose)?([123]d)?|rnnbase|rnncellbase)$")
_GAINS = ("weight_g", "original0")  # gains of weight_norm, the older and the newer function


@dataclass(frozen=True)
class PlacedWeight:
    """A parameter and its place in a model.

    Attributes:
        name: full name of the parameter.
        path: full name of its layer. A parametrization belongs to the layer that it parametrizes.
        layer: the layer.
        owner: the module that holds the parameter: the layer or one of its parametrizations.
        own: name of the parameter in its owner.
        param: the parameter.
        dense: the parameter as filters see it, in its dense shape.
    """

    name: str
    path: str
    layer: nn.Module
    owner: nn.Module
    own: str
    param: nn.Parameter
    dense: Tensor

    @property
    def shape(self) -> torch.Size | None:
        """Return the dense shape of the parameter, or None if the parameter is lazy."""
        return None if is_lazy(self.param) else self.dense.shape

    @property
    def rows(self) -> int | None:
        """Return the size of the first dimension, or None for a scalar or a lazy parameter."""
        return self.shape[0] if self.shape else None

    @property
    def is_of_layer(self) -> bool:
        """Return whether it is the weight of a linear, convolutional or recurrent layer."""
        is_weight = self.own.startswith(("weight", "original", "values"))
        return is_weight and self.own not in _GAINS and has_class(self.layer, _LAYER)

    @property
    def memory(self) -> tuple[int, ...]:
        """Return a key that is equal for parameters that share all their memory (tied weights)."""
        if type(self.param) is not nn.Parameter or self.shape is None:
            return (id(self.param),)
        return memory_id(self.param), int(self.param.storage_offset()), self.param.numel()


def placed_weights(model: nn.Module) -> list[PlacedWeight]:
    """Return every parameter of a model with its place, in the order of `named_weights`."""
    modules = dict(named_modules(model))
    placed = []
    for name, owner, own, param, _ in named_weights(model):
        path, layer = name.rpartition(".")[0], owner
        if isinstance(owner, ParametrizationList):  # its path is <layer>.parametrizations.weight
            path = ".".join(path.split(".")[:-2])
            layer = modules[path]
        dense = dense_form(owner, param)
        placed.append(PlacedWeight(name, path, layer, owner, own, param, dense))
    return placed


def weight_dims(owner: nn.Module, param_name: str, root: nn.Module | None) -> tuple[int, int]:
    """Return the output and the input dimension of a weight.

    Args:
        owner: module that holds the parameter: a layer or one of its parametrizations.
        param_name: name of the parameter in its owner.
        root: module that contains the layer; needed if the owner is a parametrization.
    """
    if isinstance(owner, ParametrizationList):
        for layer in () if root is None else root.modules():
            lists = layer._modules.get("parametrizations")
            for name, each in lists.items() if isinstance(lists, nn.ModuleDict) else ():
                if each is owner:
                    return dims_of(layer, name)
    return dims_of(owner, param_name)


def has_class(module: nn.Module, pattern: re.Pattern[str]) -> bool:
    """Return whether a pattern matches the lower-cased name of a module's class or base class."""
    return any(pattern.search(base.__name__.lower()) for base in type(module).__mro__)


def paths_above(path: str) -> Iterable[str]:
    """Return a full name and the names of all modules around it, innermost first.

    >>> list(paths_above("stem.0.conv"))
    ['stem.0.conv', 'stem.0', 'stem', '']
    """
    parts = path.split(".") if path else []
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
