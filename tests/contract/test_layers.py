"""Tests of the contract with convolutions, attention, recurrent layers and tied weights."""

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.cases import OPTIMIZERS, attach, every_algorithm, step_once
from helpers.support import assert_pruned, batch, masks_of


class Pooled(nn.Module):
    """A sequence of layers with its output flattened to one vector per sample."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).flatten(1)


class Attention(nn.Module):
    """Self-attention with separate weights for query, key and value, or one shared weight."""

    def __init__(self, kdim=None):
        super().__init__()
        self.kdim = kdim
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim, vdim=kdim)

    def forward(self, x):
        keys = x if self.kdim is None else x[..., : self.kdim]
        return self.attention(x, keys, keys)[0].flatten(1)


LAYERS = {
    "convolutions": (
        lambda: Pooled(
            nn.Conv2d(4, 8, 3, groups=2), nn.GELU(), nn.ConvTranspose2d(8, 4, 3), nn.Conv2d(4, 2, 1)
        ),
        lambda step: batch(step, 3, 4, 6, 6),
        ["layers.0.weight", "layers.2.weight", "layers.3.weight"],
    ),
    "one-dimensional convolutions": (
        lambda: Pooled(nn.Conv1d(4, 8, 3), nn.GELU(), nn.Conv1d(8, 2, 3)),
        lambda step: batch(step, 3, 4, 9),
        ["layers.0.weight", "layers.2.weight"],
    ),
    "transformer layer": (
        lambda: Pooled(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)),
        lambda step: batch(step, 3, 5, 8),
        [
            "layers.0.self_attn.in_proj_weight",
            "layers.0.self_attn.out_proj.weight",
            "layers.0.linear1.weight",
            "layers.0.linear2.weight",
        ],
    ),
    "attention": (
        Attention,
        lambda step: batch(step, 3, 5, 8),
        ["attention.in_proj_weight", "attention.out_proj.weight"],
    ),
    "attention with other keys": (
        lambda: Attention(4),
        lambda step: batch(step, 3, 5, 8),
        [f"attention.{x}_proj_weight" for x in "qkv"] + ["attention.out_proj.weight"],
    ),
    "recurrent": (
        lambda: Recurrent(),
        lambda step: batch(step, 3, 5, 8),
        ["rnn.weight_ih_l0", "rnn.weight_hh_l0"],
    ),
    "complex": (
        lambda: Spectral(),
        lambda step: batch(step, 3, 10),
        ["weight", "out.weight"],
    ),
}


class Recurrent(nn.Module):
    """An LSTM that returns its last output."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


class Spectral(nn.Module):
    """A complex weight between a Fourier transform and its inverse."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        return self.out(torch.fft.irfft(torch.fft.rfft(x) @ self.weight))


def any_name(make):
    """Wrap `make` to return the last algorithm of a Group, as its filters match no names here."""

    def last():
        sparsity = make()
        return sparsity[-1] if isinstance(sparsity, sparse.Group) else sparsity

    return last


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@every_algorithm
def test_layers(make, layers):
    make_layers, inputs, names = layers

    model, sparsity, optimizer = attach(any_name(make), OPTIMIZERS["adam"], make_layers())
    assert list(sparsity.sparse_params) == names
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for step in range(1, 6):
        step_once(model, optimizer, step, inputs)
        assert_pruned(sparsity, optimizer)
    for parameter in sparsity.sparse_params.values():
        level = parameter.computed_sparsity
        assert 0.3 < level < 0.8
        assert (parameter.param.detach() != start[parameter.name])[parameter.mask].any()
    model.eval()
    with torch.no_grad():
        assert model(inputs(0)).isfinite().all()


class Tied(nn.Module):
    """A model that uses one weight twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@every_algorithm
def test_tied_weights_have_one_mask(make):
    make = any_name(make)
    model, sparsity, optimizer = attach(make, OPTIMIZERS["adam"], Tied())
    assert list(sparsity.sparse_params) == ["first.weight"]
    assert list(model.second.state_dict()) == ["weight", "bias"]
    for step in range(1, 6):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
        assert model.first.weight is model.second.weight
    assert sparsity.get_sparse_params(model.second.weight).name == "first.weight"
    loaded = Tied()
    other = make()
    other.apply(loaded)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.second.weight, model.second.weight)
    assert torch.equal(masks_of(other)["first.weight"], masks_of(sparsity)["first.weight"])


@every_algorithm
def test_frozen_weights_keep_their_mask_and_unfrozen_ones_train_sparse(make):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model, sparsity, optimizer = attach(make, OPTIMIZERS["sgd with momentum"], model)
    model[0].weight.requires_grad_(False)
    parameter = sparsity.sparse_params["0.weight"]
    frozen, mask = model[0].weight.detach().clone(), parameter.mask.clone()
    for step in range(1, 4):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(parameter.mask, mask)
    assert not model[0].weight.requires_grad
    model[0].weight.requires_grad_(True)
    optimizer.zero_grad()
    model(batch(9, 5, 8)).pow(2).mean().backward()
    assert_pruned(sparsity)
    optimizer.step()
    assert_pruned(sparsity, optimizer)
    for step in range(5, 9):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
    assert not torch.equal(model[0].weight, frozen)
    static = isinstance(sparsity, sparse.Static)
    assert torch.equal(parameter.mask, mask) == static
