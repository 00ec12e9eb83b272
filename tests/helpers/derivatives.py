"""Compressed linear layers and masked counterparts, which must have the same derivatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import sparsewright as sparse


class Autoencoder(nn.Module):
    """Encode by a linear layer, and decode by the transpose of its weight."""

    def __init__(self, features: int = 6, hidden: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t())


def mlp() -> nn.Sequential:
    """Build two linear layers from six inputs to six outputs."""
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))


MODELS = {"mlp": mlp, "tied autoencoder": Autoencoder}


def pair(make, level: float = 0.5):
    """Return a masked model and its compressed counterpart, each with its algorithm."""
    made = []
    for storage in ("masked", "compressed"):
        torch.manual_seed(0)
        model, sparsity = make(), sparse.Static(level)
        sparsity.apply(model)
        if storage == "compressed":
            assert all(c.is_compressed for c in sparse.compress(model, verbose=False))
        made.append((model, sparsity))
    return made


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the detached parameters by name."""
    return {name: p.detach() for name, p in model.named_parameters()}


def call(model: nn.Module):
    """Return the model as a function of its parameters and its input."""
    return lambda params, x: functional_call(model, params, (x,))


def live(tree: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the live entries `[..., nnz]` of derivatives.

    Derivatives by compressed weights have only live entries already.

    Args:
        tree: derivatives by parameter name; the last dimensions have the parameter's shape.
        masks: masks of the weights by name.
    """
    found = {}
    for name, tensor in tree.items():
        weight = name.replace("values", "weight")
        mask = masks.get(weight)
        is_dense = mask is not None and not name.endswith("values")
        found[weight] = tensor[..., mask] if is_dense else tensor
    return found


def assert_same_derivatives(
    first: dict[str, Tensor], second: dict[str, Tensor], masks: dict[str, Tensor]
) -> None:
    """Assert that the derivatives of a masked and a compressed model agree."""
    left, right = live(first, masks), live(second, masks)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=1e-5, rtol=1e-4, msg=name)
