"""RigL's dense gradient of a compressed layer equals the masked layer's, for any formula."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsewright as sparse
from helpers.support import batch


class RecordsGradient(sparse.DynamicSparsityAlgorithm):
    """Keep all masks, and record the dense gradient."""

    needs_dense_gradient = True
    seen = None

    def update_mask(self, p, mask, sparsity):
        self.seen = self.dense_gradient(p).clone()
        return mask


def penalty(layer, x):
    param = layer.weight if isinstance(layer.weight, nn.Parameter) else layer.values
    loss = torch.tanh(layer(x)).square().sum()
    (grad,) = torch.autograd.grad(loss, param, create_graph=True)
    grad = grad[layer.weight_mask] if grad.ndim == 2 else grad
    return grad.square().sum() + (grad**3).sum()


FORMULAS = {
    "layer alone": lambda layer, x: layer(x).square().sum(),
    "weight alone": lambda layer, x: (layer.weight**3).sum() + layer.weight.sin().sum(),
    "both": lambda layer, x: F.linear(torch.tanh(layer(x)), layer.weight.t()).square().sum(),
    "slope": lambda layer, x: (
        torch.autograd.grad(torch.tanh(layer(x)).sum(), x, create_graph=True)[0].square().sum()
    ),
    "slope through the weight": lambda layer, x: (
        torch.autograd.grad(
            F.linear(torch.tanh(layer(x)), layer.weight.t()).sum(), x, create_graph=True
        )[0]
        .square()
        .sum()
    ),
    "penalty on the gradient": lambda layer, x: penalty(layer, x),
    "slope of that penalty": lambda layer, x: (
        torch.autograd.grad(penalty(layer, x), x, create_graph=True)[0].square().sum()
    ),
    "batched": lambda layer, x: torch.func.vmap(layer)(x.unsqueeze(1)).square().sum(),
}


def compiled_both(layer, x):
    return torch.compile(FORMULAS["both"], backend="aot_eager")(layer, x)


@pytest.mark.parametrize(
    "formula", [*FORMULAS.values(), compiled_both], ids=[*FORMULAS, "compiled"]
)
def test_the_dense_gradient_of_every_formula_is_that_of_the_masked_layer(formula):
    seen = []
    for storage in ("masked", "compressed"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6))
        algorithm = RecordsGradient(sparsity=0.5, update=1, storage=storage)
        algorithm.apply(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        algorithm.apply(optimizer)
        for micro in range(2):
            formula(model[0], batch(micro, 5, 8).requires_grad_()).backward()
        optimizer.step()
        seen.append(algorithm.seen)
    assert (seen[0] != 0).sum() > seen[0].numel() / 2
    # The norm is compared because terms of the third derivatives cancel in single entries.
    assert (seen[1] - seen[0]).norm() <= 1e-4 * seen[0].norm()
