"""Ctrl-C at every line of `apply`, `compress`, `decompress`, `remove` and `load_state_dict`."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch

import sparsewright as sparse
from helpers.interruptions import interrupt, places_in
from helpers.support import assert_pruned, assert_same, make_mlp, train

EVERY = pytest.param(1, marks=pytest.mark.exhaustive, id="every line")
SOME = pytest.param(16, id="some lines")
STORAGES = ["masked", "compressed", "shadowed"]
KEYS = list(make_mlp(0).state_dict())

ALGORITHMS = {
    "gmp": lambda storage: sparse.GMP(
        {"type": "cubic", "init": 0.2, "final": 0.9, "begin": 0, "end": 9}, 2, storage=storage
    ),
    "rigl": lambda storage: sparse.RigL(0.5, sparsity=0.7, update=2, storage=storage),
}
every_algorithm = pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS)
every_place = pytest.mark.parametrize("stride", [SOME, EVERY])


def attach(model, sparsity):
    """Apply an algorithm to a model and a new optimizer."""
    sparsity.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    return optimizer


def trained(make, storage, steps=3):
    """Return a sparse model after some steps."""
    model, sparsity = make_mlp(0), make(storage)
    optimizer = attach(model, sparsity)
    train(model, optimizer, steps)
    return model, sparsity, optimizer


def check_trains(model, sparsity, optimizer, step):
    """Check that states have the shapes of their weights, before and after three more steps."""
    for number in range(step, step + 3):
        for parameter in sparsity.sparse_params.values():
            param = parameter.param
            assert parameter.kept == int(parameter.mask.sum())
            for value in optimizer.state[param].values():
                assert value.dim() == 0 or value.shape == param.shape
        if not any(parameter.is_compressed for parameter in sparsity.sparse_params.values()):
            assert_pruned(sparsity, optimizer)
        train(model, optimizer, 1, start=number)
    assert sparsity.step == step + 3


@every_place
@pytest.mark.parametrize("storage", STORAGES)
@every_algorithm
def test_apply_leaves_no_trace_and_works_again(make, storage, stride):
    twin, own = make_mlp(0), make(storage)
    train(twin, attach(twin, own), 3)
    places = places_in(partial(make(storage).apply, make_mlp(0)))
    for place in places[::stride]:
        model, sparsity = make_mlp(0), make(storage)
        assert interrupt(partial(sparsity.apply, model), place)
        assert not sparsity.is_attached
        assert list(model.state_dict()) == KEYS
        train(model, attach(model, sparsity), 3)
        if storage != "shadowed":  # its weights were dense and are now pruned
            assert_same(model.state_dict(), twin.state_dict())


@every_place
@pytest.mark.parametrize("held", ["masked", "compressed"])
@every_algorithm
def test_a_conversion_leaves_a_model_that_trains_on(make, held, stride, caplog):
    caplog.set_level(logging.ERROR)
    masked = held == "masked"

    def convert(model):
        sparse.compress(model, verbose=False) if masked else sparse.decompress(model)

    before = trained(make, held)[0].state_dict()
    twins = trained(make, held)  # keeps the algorithm alive, so there is more to convert
    places = places_in(partial(convert, twins[0]))
    for place in places[::stride]:
        model, sparsity, optimizer = trained(make, held)
        assert interrupt(partial(convert, model), place)
        assert_same(model.state_dict(), before)
        check_trains(model, sparsity, optimizer, 3)
        convert(model)
        assert all(p.is_compressed == masked for p in sparsity.sparse_params.values())
        check_trains(model, sparsity, optimizer, 6)


@every_place
@pytest.mark.parametrize("storage", STORAGES)
@every_algorithm
def test_remove_works_again(make, storage, stride):
    twins = trained(make, storage)  # keeps the model alive, so there is more to remove
    places = places_in(twins[1].remove)
    for place in places[::stride]:
        model, sparsity, optimizer = trained(make, storage)
        assert interrupt(sparsity.remove, place)
        sparsity.remove()
        assert not sparsity.is_attached
        assert list(model.state_dict()) == KEYS
        train(model, optimizer, 2)


@every_place
@pytest.mark.parametrize("storage", STORAGES)
@every_algorithm
def test_load_state_dict_works_again(make, storage, stride):
    other = trained(make, storage, 6)[0].state_dict()
    model, *_ = trained(make, storage)
    for place in places_in(partial(model.load_state_dict, other))[::stride]:
        model, sparsity, optimizer = trained(make, storage)
        assert interrupt(partial(model.load_state_dict, other), place)
        model.load_state_dict(other)
        assert_same(model.state_dict(), other)
        check_trains(model, sparsity, optimizer, 3)
