"""Dense gradients of compressed layers are finite exactly when the masked layer's are."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsewright as sparse
from sparsewright.taps.captured import FactoredGradient

SIZES = st.sampled_from([0.0, 1.0, -1e10, 1e25, -1e30, 3e38, float("inf"), float("nan")])


def matrices(draw, rows, cols):
    flat = draw(st.lists(SIZES, min_size=rows * cols, max_size=rows * cols))
    return torch.tensor(flat, dtype=torch.float32).reshape(rows, cols)


@st.composite
def gradients(draw):
    rows, cols = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    pairs = [
        (matrices(draw, tokens, cols), matrices(draw, tokens, rows))
        for tokens in draw(st.lists(st.integers(0, 2), max_size=2))
    ]
    dense = [matrices(draw, rows, cols) for _ in range(draw(st.integers(0, 1)))]
    return FactoredGradient(pairs, torch.Size([rows, cols]), None, dense), pairs, dense


@settings(max_examples=300, deadline=None)
@given(gradients())
def test_it_is_finite_if_all_of_its_entries_are(made):
    gradient, pairs, dense = made
    total = gradient.dense()
    expected = torch.zeros(gradient.shape, dtype=torch.float64)
    for x, dy in pairs:
        expected += dy.double().T @ x.double()
    for each in dense:
        expected += each.double()
    assert gradient.is_finite() == bool(total.isfinite().all())
    within = bool((expected.abs() < 1e38).all())
    if within and not any(t.abs().gt(1e19).any() for pair in pairs for t in pair):
        assert gradient.is_finite()
        torch.testing.assert_close(total, expected.float())


def test_ordinary_factors_are_not_multiplied_to_find_out(monkeypatch):
    x, dy = torch.randn(8, 5), torch.randn(8, 4)
    gradient = FactoredGradient([(x, dy)], torch.Size([4, 5]))
    monkeypatch.setattr(gradient, "row_blocks", None)
    assert gradient.is_finite()


def train(storage, scale, step, model=None, **options):
    """Update a mask once, after an infinite entry of the dense gradient at a pruned connection."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False)) if model is None else model
    sparsity = sparse.RigL(0.3, sparsity=0.75, update=2, storage=storage, **options)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsity.apply(optimizer)
    parameter = sparsity.sparse_params["0.weight"]
    before = parameter.mask.clone()
    row, col = (~before).nonzero()[0].tolist()
    for _ in range(2):
        optimizer.zero_grad()
        for micro in range(2):
            draws = torch.Generator().manual_seed(micro)
            x, dy = torch.rand(4, 16, generator=draws), torch.rand(4, 8, generator=draws)
            if micro == 0:
                x[:, col] *= scale
                dy[:, row] *= scale
            step(model, x, dy)
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
    return before, parameter.mask


def eager(model, x, dy):
    model(x).backward(dy)


def autocast(model, x, dy):
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.backward(dy.to(y.dtype))


def compiled(model, x, dy):
    torch.compile(model, backend="aot_eager")(x).backward(dy)


def by_the_weight(model, x, dy):
    (x @ model[0].weight.t()).backward(dy)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("step", [eager, autocast, compiled, by_the_weight])
@pytest.mark.parametrize("scale", [1.0, 1e25])
def test_a_product_that_overflows_leaves_the_mask(storage, step, scale, caplog):
    with caplog.at_level(logging.WARNING, "sparsewright"):
        before, after = train(storage, scale, step)
    assert torch.equal(before, after) == (scale > 1)
    text = "mask not updated because the gradient is not finite"
    assert (text in caplog.text) == (scale > 1)
