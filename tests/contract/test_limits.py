"""Limits at which two choices are equal: whole runs must then be equal bit for bit."""

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.choices import ALGORITHMS, STORAGES, config_of, why_not
from helpers.support import assert_same, make_mlp, train

# Pairs of options that give equal masks for two matrices.
EQUAL = {
    "blocks of one entry": ({"structure": {"type": "block", "shape": [1, 1]}}, {}),
    "one group of inputs": ({"structure": {"type": "groups", "inputs": 1}}, {}),
    "one group of outputs": ({"structure": {"type": "groups", "outputs": 1}}, {}),
    "n of n": (
        {"structure": "4:4", "sparsity": {"type": "linear", "init": 0.0, "slope": 0.0}},
        {"sparsity": {"type": "linear", "init": 0.0, "slope": 0.0}},
    ),
    "erk of power 0": ({"distribution": {"type": "erk", "power": 0}}, {}),
    "er of matrices": ({"distribution": "er"}, {"distribution": "erk"}),
    "no layer that stays dense": ({"distribution": {"type": "uniform", "dense": []}}, {}),
    "minimum of 0": (
        {"distribution": {"type": "global", "minimum": 0.0}},
        {"distribution": "global"},
    ),
}
# Pairs for one layer.
EQUAL_ALONE = {
    "global": ({"distribution": "global"}, {}),
    "lamp": ({"distribution": "lamp"}, {}),
    "erk": ({"distribution": "erk"}, {}),
    "er": ({"distribution": "er"}, {}),
}
EVERY = [(False, name, *pair) for name, pair in EQUAL.items()]
EVERY += [(True, name, *pair) for name, pair in EQUAL_ALONE.items()]


def run(config, is_alone=False):
    model = nn.Sequential(make_mlp()[0]) if is_alone else make_mlp()
    sparsity = sparse.configure({"param_filter": "*.weight", **config})
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    train(model, optimizer, 5)
    return model.state_dict()


@pytest.mark.parametrize(
    ("is_alone", "first", "second"),
    [pytest.param(alone, first, second, id=name) for alone, name, first, second in EVERY],
)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "static"])
def test_runs_are_equal(algorithm, is_alone, first, second):
    # Levels that divide the weights: er and erk round the number of pruned entries down.
    rising = {"sparsity": [0.25, 0.5]} if algorithm == "gmp" else {}
    configs = [config_of(algorithm, **{**rising, **options}) for options in (first, second)]
    assert_same(*[run(config, is_alone) for config in configs])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_layer_at_level_0_trains_as_if_no_filter_matched_it(algorithm, storage):
    dense = {"type": "uniform", "dense": "0.*"}
    if why_not(algorithm, {"type": "unstructured"}, dense, storage):
        return
    first = run(config_of(algorithm, storage=storage, distribution=dense))
    assert first.pop("0.weight_mask").all()
    second = run(config_of(algorithm, storage=storage, param_filter="2.weight"))
    close = storage == "compressed"  # sums of products in another order
    for name in second:
        torch.testing.assert_close(
            first[name], second[name], rtol=1e-5 if close else 0, atol=1e-6 if close else 0
        )
    assert set(first) == set(second)
