"""Weights as matrices, and statistics of the inputs that these matrices multiply."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

import sparsewright as sparse
from helpers.calibrated import Tower, floats, gpt2, seeded, words
from sparsewright.calibration.inputs import inputs_of


@st.composite
def convolutions(draw):
    """Draw a convolution and images that are large enough for it."""
    groups = draw(st.sampled_from([1, 2, 4]))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride = draw(pair)
    paddings = [st.just("valid"), st.integers(0, 1), st.tuples(st.just(1), st.just(0))]
    paddings += [st.just("same")] if stride == (1, 1) else []
    layer = nn.Conv2d(
        4,
        4 * draw(st.integers(1, 2)),
        draw(pair),
        stride=stride,
        padding=draw(st.one_of(paddings)),
        dilation=draw(pair),
        groups=groups,
        bias=False,
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
        dtype=torch.float64,
    )
    height, width = draw(st.integers(8, 10)), draw(st.integers(8, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return layer, torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)


@given(convolutions())
def test_a_convolution_multiplies_its_patches(case):
    layer, x = case
    shapes = inputs_of(layer, "weight", layer.weight)
    matrix, features = shapes.matrix(layer.weight), shapes.features(x)
    out = torch.einsum("gof,gtf->got", matrix, features)
    expected = layer(x)
    images = out.reshape(out.shape[0] * out.shape[1], len(x), *expected.shape[2:])
    torch.testing.assert_close(images.transpose(0, 1), expected)
    assert torch.equal(shapes.weight(matrix), layer.weight)


def test_neighbors_along_the_input_channels_stay_neighbors():
    layer = nn.Conv2d(8, 2, 3)
    matrix = inputs_of(layer, "weight", layer.weight).matrix(layer.weight)
    assert torch.equal(matrix[0, 1, :4], layer.weight[1, :4, 0, 0])


@pytest.mark.parametrize("layer", [nn.Linear(6, 4, bias=False), Conv1D(4, 6)])
def test_a_linear_layer(layer):
    x = torch.randn(2, 3, 6)
    shapes = inputs_of(layer, "weight", layer.weight)
    matrix = shapes.matrix(layer.weight)
    assert matrix.shape == (1, 4, 6)
    out = (shapes.features(x) @ matrix.transpose(1, 2)).reshape(2, 3, 4)
    torch.testing.assert_close(out, layer(x))
    assert torch.equal(shapes.weight(matrix), layer.weight)


@pytest.mark.parametrize("products", [False, True])
def test_statistics(products):
    model, batches = seeded(Tower), floats()
    found = sparse.calibration.statistics(model, iter(batches), products=products)
    assert sorted(found) == sorted(
        ["stem.weight", "last.weight"]
        + [f"blocks.{index}.{name}.weight" for index in range(3) for name in ("up", "down")]
    )
    x, own = torch.cat(batches).reshape(-1, 6), found["stem.weight"]
    assert own.tokens.tolist() == [42]
    assert own.samples == 6
    torch.testing.assert_close(own.sums[0], x.sum(0))
    torch.testing.assert_close(own.norms[0], x.norm(dim=0))
    torch.testing.assert_close(own.variances[0], x.var(0, correction=0))
    if products:
        torch.testing.assert_close(own.products[0], x.T @ x)
    else:
        assert own.products is None


def test_statistics_leave_out_padding():
    model, batches = gpt2(), words(batches=2)
    found = sparse.calibration.statistics(model, batches, param_filter="*.c_fc.weight")
    assert list(found) == [f"transformer.h.{index}.mlp.c_fc.weight" for index in range(2)]
    assert {each.tokens.item() for each in found.values()} == {10 + 7 + 10 + 8}
    short = [{"input_ids": each["input_ids"][1:, : 7 + i]} for i, each in enumerate(batches)]
    long = [{"input_ids": batch["input_ids"][:1]} for batch in batches]
    own = sparse.calibration.statistics(model, short + long, param_filter="*.c_fc.weight")
    for name, each in own.items():
        torch.testing.assert_close(found[name].squares, each.squares)


def test_statistics_of_half_precision_inputs_are_float32():
    layer, x = nn.Linear(4, 3).bfloat16(), torch.full((1000, 4), 0.1).bfloat16()
    found = sparse.calibration.statistics(layer, [x], products=True, param_filter="weight")
    own = found["weight"]
    assert own.products.dtype == torch.float32
    torch.testing.assert_close(own.sums[0], x.double().sum(0))
    exact = (x.double().T @ x.double()).float()
    torch.testing.assert_close(own.products[0], exact, rtol=1e-4, atol=0)


def test_statistics_leave_no_trace():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, state = torch.randn(5, 6), torch.get_rng_state()

    def forward(model, batch):
        model.train()  # a model that changes its buffers and draws random numbers
        return model(batch)

    sparse.calibration.statistics(model, [x], forward=forward)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(vars(m)["_forward_pre_hooks"] for m in model.modules())
    assert not any(vars(m)["_forward_hooks"] for m in model.modules())
    assert all(param.grad is None for param in model.parameters())


def test_statistics_need_data():
    with pytest.raises(sparse.errors.MissingOptionError) as caught:
        sparse.calibration.statistics(nn.Linear(2, 2), [])
    assert str(caught.value) == (
        "statistics needs the option 'batches': calibration data. The iterable is empty."
    )


class Flat(nn.Module):
    """A model that joins the tokens of all sequences before its layer, as routers do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, attention_mask=None):
        return self.fc(x.flatten(0, 1))


def test_padding_is_left_out_of_joined_tokens():
    x, mask = torch.randn(2, 5, 4), torch.ones(2, 5)
    mask[0, :2] = 0
    found = sparse.calibration.statistics(Flat(), [(x, mask)])["fc.weight"]
    assert found.tokens.tolist() == [8]
    torch.testing.assert_close(found.sums[0].float(), x[mask.bool()].sum(0))
