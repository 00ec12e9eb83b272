"""Weights under `torch.nn.utils.parametrize`, which are computed from what is trained."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList


@torch.no_grad()
def keeps_zeros(module: nn.Module, param_name: str) -> bool:
    """Return whether a weight is zero wherever the parameter that it is computed from is.

    It is under weight and spectral normalization, and is not under an orthogonal or symmetric
    parametrization: a mask of the parameter does not make such a weight sparse. Found out by trying
    it on a copy; without data, or with data on several ranks, it is taken for granted.

    Args:
        module: owner of the parameter.
        param_name: its name there.
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
