"""Output and input dimensions of weights, and structures of layers that store inputs first."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers.pytorch_utils import Conv1D

import sparsewright as sparse
from helpers.support import assert_pruned, batch
from sparsewright import layers
from sparsewright.core.structure import Structure
from sparsewright.errors import ShapeError
from sparsewright.layers.indexed_layer import IndexedKind, IndexedLayer
from sparsewright.plan.forecast import forecast
from sparsewright.plan.make_plan import make_plan

LAYERS = {
    "linear": (lambda: nn.Linear(4, 8), (0, 1)),
    "bilinear": (lambda: nn.Bilinear(4, 4, 8), (0, 1)),
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), (0, 1)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3), (0, 1)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 3), (0, 1)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 8, 3), (1, 0)),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 8, 3), (1, 0)),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(4, 8, 3), (1, 0)),
    "lazy transposed conv2d": (lambda: nn.LazyConvTranspose2d(8, 3), (1, 0)),
    "linear layer of transformers": (lambda: Conv1D(8, 4), (1, 0)),
    "embedding": (lambda: nn.Embedding(8, 4), (0, 1)),
}


class Conv1DOfMine(nn.Module):
    """A layer of a user, whose class name says nothing about its weight."""


Conv1DOfMine.__name__ = "Conv1D"


@pytest.mark.parametrize(("make", "dims"), LAYERS.values(), ids=LAYERS)
def test_dims_of_layers(make, dims):
    layer = make()
    assert layers.dims_of(layer, "weight") == dims
    assert layers.dims_of(layer, "bias") == (0, 1)
    mine = type("Mine", (type(layer),), {})
    assert layers.dims_of_layer(mine) == dims
    assert layers.dims_of_layer(Conv1DOfMine) == (0, 1)


def rows_of_inputs(weight):
    """Return a weight `[in, out, ...]` as rows of four inputs at one output and kernel position."""
    return weight.movedim(0, -1).reshape(-1, 4)


def decoder():
    """Build transposed convolutions, one of them parametrized."""
    torch.manual_seed(0)
    last = spectral_norm(nn.ConvTranspose2d(4, 8, 2))
    return nn.Sequential(nn.ConvTranspose2d(8, 4, 3, bias=False), nn.Tanh(), last)


def train(model, sparsity, steps=5):
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    sparsity.apply(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        out = model(batch(step, 3, 8, 4, 4))
        (out - batch(100 + step, *out.shape)).pow(2).sum().backward()
        optimizer.step()
        if sparsity.storage != "compressed":
            assert_pruned(sparsity, optimizer)
        yield step


class Kept(sparse.DynamicSparsityAlgorithm):
    """A user's algorithm that selects with its structure."""

    def update_mask(self, p, mask, sparsity):
        assert isinstance(self.structure, Structure)
        return self.structure.topk(p, sparsity, magnitude=True)


@pytest.mark.parametrize("algorithm", ["static", "set", "rigl", "gmp", "ste", "Kept"])
def test_two_of_four_inputs_of_transposed_convolutions(algorithm):
    config = {"algorithm": algorithm, "structure": "2:4", "param_filter": ["*weight", "*original"]}
    if algorithm == "gmp":
        config["sparsity"] = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 0, "end": 4}
    if algorithm != "static":
        config["update"] = 1
    model = decoder()
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    names = ["0.weight", "2.parametrizations.weight.original"]
    assert list(sparsity.sparse_params) == names
    for step in train(model, sparsity):
        for parameter in sparsity.sparse_params.values():
            live = rows_of_inputs(parameter.mask).sum(1)
            assert live.min() >= 2
            assert (live == 2).all() or (algorithm == "gmp" and step < 3)
    assert sparsity.algorithms[0].structure.in_dim == 1


UNITS = {
    "outputs": ({"type": "channel", "axis": 0}, (slice(None), slice(1))),
    "inputs": ({"type": "channel", "axis": 1}, (slice(1), slice(None))),
    "blocks": ({"type": "block", "shape": [4, 2]}, (slice(2), slice(4))),
}


@pytest.mark.parametrize(("structure", "first"), UNITS.values(), ids=UNITS)
def test_units_of_transposed_convolutions_stay_whole(structure, first):
    """Look at the unit with the first entry; each update moves units as a whole."""
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 3))
    options = {"sparsity": 0.5, "update": 1, "structure": structure}
    sparsity = sparse.configure({"algorithm": "set", **options})
    sparsity.apply(model)
    (parameter,) = sparsity.sparse_params.values()
    before, size = parameter.mask.clone(), parameter.mask[first].numel()
    for _ in train(model, sparsity):
        assert int(parameter.mask[first].sum()) in (0, size)
        assert parameter.kept == parameter.shape.numel() // 2
    assert not torch.equal(parameter.mask, before)


class SparseConvTranspose2d(IndexedLayer, nn.ConvTranspose2d):
    """A compressed transposed convolution."""


class SparseConvTranspose2dKind(IndexedKind):
    dense, compressed = nn.ConvTranspose2d, SparseConvTranspose2d


@pytest.mark.parametrize("algorithm", ["set", "rigl"])
@pytest.mark.parametrize("structure", ["2:4", {"type": "block", "shape": [2, 4]}])
def test_compressed_layers_have_the_masks_of_masked_ones(monkeypatch, structure, algorithm):
    monkeypatch.setattr(layers, "KINDS", (*layers.KINDS, SparseConvTranspose2dKind()))
    found = {}
    for storage in ("masked", "compressed"):
        model = nn.Sequential(decoder()[0])
        options = {"sparsity": 0.5, "update": 1, "structure": structure, "storage": storage}
        sparsity = sparse.configure({"algorithm": algorithm, **options})
        sparsity.apply(model)
        (parameter,) = sparsity.sparse_params.values()
        assert parameter.storage.name == storage
        assert parameter.structure.in_dim == 0
        found[storage] = [parameter.mask.clone() for _ in train(model, sparsity)]
        if structure == "2:4":
            assert (rows_of_inputs(parameter.mask).sum(1) == 2).all()
    assert all(map(torch.equal, *found.values()))
    if algorithm == "set":
        assert not torch.equal(found["masked"][0], found["masked"][-1])


def test_misfits_are_judged_by_the_inputs():
    model = nn.Sequential(nn.ConvTranspose2d(6, 8, 3), nn.ConvTranspose2d(8, 6, 3))
    sparsity = sparse.Static(structure="2:4")
    sparsity.apply(model)
    assert list(sparsity.sparse_params) == ["1.weight"]
    reason = r"^0\.weight of shape \(6, 8, 3, 3\): its input dimension 6 is not divisible by m = 4$"
    with pytest.raises(ShapeError, match=reason):
        sparse.configure(
            {"algorithm": "static", "structure": "2:4", "param_filter": "0.weight"}
        ).apply(model := nn.Sequential(nn.ConvTranspose2d(6, 8, 3)))
    with pytest.raises(ShapeError, match=reason):
        sparse.Static(structure="2:4").sparsify_parameter(model, "0.weight", model[0].weight)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_plan_counts_what_apply_keeps(axis):
    model = nn.Sequential(nn.ConvTranspose2d(5, 3, 2), nn.Linear(5, 3))
    algorithm = sparse.Static(0.5, structure={"type": "channel", "axis": axis})
    found = forecast(algorithm, 10)
    routes = [("entry", lambda name, param: param.ndim > 1, algorithm)]
    plan = make_plan(model, routes, {id(algorithm): found}, pytest.fail)
    planned = {weight.name: weight.kept[0] for weight in plan.sparse}
    algorithm.apply(model)
    kept = {name: p.kept for name, p in algorithm.sparse_params.items()}
    per_position = [1 * 5, 2 * 3][axis]  # half of 3 outputs, or of 5 inputs
    assert planned == kept == {"0.weight": 4 * per_position, "1.weight": per_position}


def test_input_groups_of_a_transposed_convolution():
    model = nn.Sequential(nn.ConvTranspose2d(8, 4, 3))
    sparsity = sparse.RigL(balance_in_groups=4, sparsity=0.5, update=1)
    sparsity.apply(model)
    for _ in train(model, sparsity):
        (parameter,) = sparsity.sparse_params.values()
        assert parameter.mask.reshape(4, -1).sum(1).tolist() == [2 * 4 * 9 // 2] * 4
    shaper = sparse.utils.InputGroupScoreShaper(4)
    assert shaper(torch.zeros(3, 8))[0].shape == (4, 6)


def test_a_compressed_layer_has_the_dims_of_its_dense_class(monkeypatch):
    """A compressed class need not derive from the dense class, as `SparseLinear` does not."""

    class Kind(SparseConvTranspose2dKind):
        compressed = layers.SparseLinear

    monkeypatch.setattr(layers, "KINDS", (Kind(),))
    layer = layers.SparseLinear.from_linear(nn.Linear(4, 8), torch.ones(8, 4, dtype=torch.bool))
    assert layers.dims_of(layer, "values") == (1, 0)


def test_an_existing_mask_is_adjusted_along_the_inputs():
    model = nn.Sequential(nn.ConvTranspose2d(8, 4, 3))
    model[0].register_buffer("weight_mask", torch.rand(8, 4, 3, 3) < 0.5)
    sparsity = sparse.SET(structure="2:4")
    sparsity.apply(model)
    assert (rows_of_inputs(model[0].weight_mask).sum(1) == 2).all()


def test_a_missed_final_level_is_that_of_the_layers_channels(caplog):
    """Without a gradient at the last update, a mask stays; only a wrong level is a warning."""
    model = nn.Sequential(nn.ConvTranspose2d(5, 3, 2))
    options = {"update": {"freq": 1, "stop": 2}, "structure": "channel"}
    sparsity = sparse.SET(sparsity=0.5, **options)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    optimizer.step()
    assert sparsity.sparse_params["0.weight"].kept == 1 * 5 * 4
    assert "mask not updated" not in caplog.text


def test_a_parametrized_weight_may_fit_along_its_inputs_only():
    model = nn.Sequential(spectral_norm(nn.ConvTranspose2d(8, 6, 2)))
    sparsity = sparse.RigL(structure="2:4", update=1)
    sparsity.apply(model)
    (parameter,) = sparsity.sparse_params.values()
    for _ in train(model, sparsity):
        assert (rows_of_inputs(parameter.mask).sum(1) == 2).all()
    other = nn.Sequential(spectral_norm(nn.ConvTranspose2d(6, 8, 2)))
    name, weight = "0.parametrizations.weight.original", other[0].parametrizations.weight.original
    with pytest.raises(ShapeError, match=rf"^{name} of shape .*: its input dimension 6 is not"):
        sparse.Static(structure="2:4").sparsify_parameter(other, name, weight)
