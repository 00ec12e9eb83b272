"""Nothing in the library depends on torch's default device and dtype, which users may change."""

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.cases import every_algorithm
from helpers.support import assert_same, batch, make_mlp, masks_of

STEPS = 6


def train(make, storage, defaults):
    """Return the masks and weights of a run whose model is built with torch's own defaults."""
    model, inputs = make_mlp(), [batch(step, 5, 8) for step in range(STEPS)]
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    with defaults():
        sparsity = make()
        sparsity.apply(model)
        sparsity.apply(optimizer)
        if storage == "compressed":
            sparse.compress(model, min_sparsity=0.0)
        for x in inputs:
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
        state = {**model.state_dict(), **masks_of(sparsity)}
    return {key: value.clone() for key, value in state.items()}


class DefaultDtype:
    """Set torch's default dtype inside a `with` block."""

    def __init__(self, dtype):
        self.dtype, self.before = dtype, torch.get_default_dtype()

    def __enter__(self):
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_):
        torch.set_default_dtype(self.before)


DEFAULTS = {
    "device": lambda: torch.device("meta"),
    "float64": lambda: DefaultDtype(torch.float64),
    "bfloat16": lambda: DefaultDtype(torch.bfloat16),
}


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("storage", ["masked", "compressed"])
@every_algorithm
def test_runs_are_those_of_torchs_own_defaults(make, storage, defaults):
    expected = train(make, storage, lambda: DefaultDtype(torch.float32))
    assert_same(train(make, storage, defaults), expected)


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
def test_layers_and_files(tmp_path, defaults):
    x = batch(0, 3, 8)
    with defaults():
        layer = sparse.nn.SparseLinear(8, 6, sparsity=0.5)
        assert layer(x).dtype == layer.weight.dtype == torch.float32
        sparse.save_compressed(layer, tmp_path / "layer")
        other = sparse.nn.SparseLinear(8, 6, sparsity=0.7)
        other.load_state_dict(sparse.load_compressed(tmp_path / "layer"))
        assert torch.equal(other(x), layer(x))
        assert float(sparse.utils.Cubic(0.0, 0.9, 10, 20)(15)) == pytest.approx(0.7875)
