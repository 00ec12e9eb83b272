"""Compressed weights with optimizers: those that can step their values, and those that cannot."""

import re

import pytest
import pytorch_optimizer
import torch

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright.errors import AttachError

CAN = {
    "adamw": lambda params: torch.optim.AdamW(params, 1e-2),
    "lion": lambda params: pytorch_optimizer.Lion(params, 1e-3),
    "schedule-free": lambda params: pytorch_optimizer.ScheduleFreeAdamW(params, 1e-2),
    "rprop": lambda params: torch.optim.Rprop(params, 1e-3),
}
CANNOT = {
    "adafactor": (torch.optim.Adafactor, "(col_var, row_var) does not have one entry"),
    "lbfgs": (torch.optim.LBFGS, "prev_flat_grad) does not have one entry"),
    "shampoo": (pytorch_optimizer.Shampoo, "pre_cond_0, pre_cond_1) does not have one entry"),
    "soap": (pytorch_optimizer.SOAP, "(GG, Q, exp_avg_sq) does not have one entry"),
    "sm3": (pytorch_optimizer.SM3, "accumulator_1) does not have one entry"),
    "ranger": (pytorch_optimizer.Ranger, "it does not step a matrix entry by entry"),
    "scalable shampoo": (pytorch_optimizer.ScalableShampoo, "does not have one entry"),
    "lookahead": (
        lambda params: pytorch_optimizer.Lookahead(torch.optim.SGD(params, 0.1)),
        "trial steps are not possible, because it wraps another optimizer",
    ),
}


def matrices(model):
    """Return the parameters with two dimensions, since some optimizers accept no others."""
    return [p for p in model.parameters() if p.ndim == 2]


@pytest.mark.parametrize("make", CAN.values(), ids=CAN)
def test_values_are_stepped_as_the_masked_weight_is(make):
    weights = []
    for compressed in (False, True):
        model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update=2)
        sparsity.apply(model)
        optimizer = make(matrices(model))
        sparsity.apply(optimizer)
        train(model, optimizer, 3)
        if compressed:
            conversions = sparse.compress(model, verbose=False)
            printed = ["0.weight is compressed", "2.weight is compressed"]
            assert [str(c) for c in conversions] == printed
        train(model, optimizer, 4, start=3)
        weights.append([p.storage.weight().detach() for p in sparsity.sparse_params.values()])
    for masked, values in zip(*weights, strict=True):
        torch.testing.assert_close(masked, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "reason"), CANNOT.values(), ids=CANNOT)
@pytest.mark.parametrize("has_stepped", [False, True])
def test_the_weight_stays_masked_and_says_why(make, reason, has_stepped):
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = make(matrices(model))
    sparsity.apply(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 8)).square().sum()
        loss.backward()
        return loss

    if has_stepped:
        optimizer.step(closure)
    for conversion in sparse.compress(model, verbose=False):
        assert not conversion.is_compressed
        assert f"{type(optimizer).__name__} cannot step compressed weights: " in conversion.reason
        assert reason in conversion.reason
    optimizer.step(closure)


@pytest.mark.parametrize(("make", "reason"), CANNOT.values(), ids=CANNOT)
def test_it_is_refused_for_weights_that_are_compressed_already(make, reason):
    model = make_mlp()
    sparsity = sparse.Static(0.5, storage="compressed")
    sparsity.apply(model)
    params = [p.param for p in sparsity.sparse_params.values()]
    with pytest.raises(AttachError, match=f"{re.escape(reason)}.*use storage 'masked'"):
        sparsity.apply(make(params))
    assert not sparsity.session.followed
