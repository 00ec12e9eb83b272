"""Weights that `torch.nn.utils.parametrize` computes from a trained parameter."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList


@torch.no_grad()
def keeps_zeros(module: nn.Module, param_name: str) -> bool:
    """Return whether the computed weight is zero at every zero of the trained parameter.

    Weight and spectral normalization preserve zeros. Orthogonal and symmetric parametrizations do
    not, so a mask on their parameter does not make the weight sparse. The function runs the
    parametrization on a copy. It returns True without a test if the parameter is on the meta
    device or is a tensor subclass (for example sharded).

    Args:
        module: the module that holds the parameter.
        param_name: name of the parameter in that module.
    """
    if not isinstance(module, ParametrizationList):
        return True
    trained = module.get_parameter(param_name)
    if trained.is_meta or type(trained) is not nn.Parameter:
        return True
    twin = copy.deepcopy(module).eval()
    param = twin.get_parameter(param_name)
    generator = torch.Generator().manual_seed(0)
    zero = (torch.rand(param.shape, generator=generator, device="cpu") < 0.5).to(param.device)
    param.masked_fill_(zero, 0)
    weight = twin()
    return weight.shape == zero.shape and not bool(weight[zero].any())
