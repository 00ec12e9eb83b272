"""After calls under `torch.inference_mode()`, a model still trains."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import sparsewright as sparse
from helpers.cases import ALGORITHMS, OPTIMIZERS, attach
from helpers.support import (
    assert_pruned,
    assert_same,
    backward,
    make_mlp,
    masks_of,
    train,
    trained_by,
)
from sparsewright.errors import AttachError

EVERY = {
    **ALGORITHMS,
    "ste": lambda: sparse.STE(0.6),
    "set, compressed": lambda: sparse.SET(sparsity=0.6, update=2, storage="compressed"),
    "rigl, compressed": lambda: sparse.RigL(sparsity=0.6, update=2, storage="compressed"),
    "gmp, 2:4": lambda: sparse.GMP(
        {"type": "cubic", "init": 0, "final": 0.5, "begin": 0, "end": 4}, update=2, structure="2:4"
    ),
    "global": lambda: sparse.SET(sparsity=0.6, update=2, distribution="global"),
}


def apply_model(model, algorithm, optimizer):
    algorithm.apply(model)


def apply_both(model, algorithm, optimizer):
    algorithm.apply(model)
    algorithm.apply(optimizer)


def apply_before_loading(model, algorithm, optimizer):
    algorithm.apply(model)
    model.load_state_dict({k: v / 2 for k, v in make_mlp(3).state_dict().items()})


def load_state(model, algorithm, optimizer):
    algorithm.apply(model)
    state = algorithm.state_dict()
    algorithm.load_state_dict(copy.deepcopy(state))
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def compress_and_back(model, algorithm, optimizer):
    algorithm.apply(model)
    sparse.compress(model, verbose=False)
    sparse.decompress(model)


def compress(model, algorithm, optimizer):
    algorithm.apply(model)
    compress_all(model, algorithm)


def compress_all(model, algorithm):
    sparse.compress(model, verbose=False)


def remove_and_apply(model, algorithm, optimizer):
    algorithm.apply(model)
    algorithm.remove()
    algorithm.apply(model)


def set_masks(model, algorithm, optimizer):
    algorithm.apply(model)
    for parameter in algorithm.sparse_params.values():
        parameter.mask = parameter.mask.flip(0)


def evaluate_first(model, algorithm, optimizer):
    algorithm.apply(model)
    model(torch.ones(2, 8))


def by_hand(model, algorithm, optimizer):
    algorithm.sparsify_module(model)
    algorithm.initialize()


def stepped(model, algorithm, optimizer):
    algorithm.apply(model)
    algorithm.apply(optimizer)
    with torch.inference_mode(False), torch.enable_grad():
        backward(model, 9)
    optimizer.step()
    optimizer.zero_grad()


ACTS = [
    *(apply_model, apply_both, apply_before_loading, load_state, compress_and_back, compress),
    *(remove_and_apply, set_masks, evaluate_first, by_hand, stepped),
]


def run(make, act, mode):
    """Return the result of a run whose preparation is done in a mode."""
    torch.manual_seed(0)
    model, algorithm = make_mlp(), make()
    optimizer = SGD(model.parameters(), 0.1)
    with mode():
        act(model, algorithm, optimizer)
    if not algorithm.session.followed:
        optimizer = Adam(model.parameters(), 0.01)
        algorithm.apply(optimizer)
    for step in range(5):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        for parameter in algorithm.sparse_params.values():
            assert parameter.is_compressed or not parameter.param[~parameter.mask].any()
    return {**trained_by(model, algorithm), **masks_of(algorithm)}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_training_goes_as_if_nothing_had_been_prepared_in_inference_mode(make, act):
    expected = run(make, act, contextlib.nullcontext)
    assert_same(run(make, act, torch.inference_mode), expected)


def other_masks(model, algorithm):
    for parameter in algorithm.sparse_params.values():
        parameter.mask = parameter.mask.flip(0)


def load_others(model, algorithm):
    with torch.inference_mode(False):
        other = make_mlp(5)
        sparse.Static(0.5, seed=7).apply(other)
    model.load_state_dict(other.state_dict())


def update_by_hand(model, algorithm):
    algorithm.update()


@pytest.mark.parametrize("act", [other_masks, load_others, update_by_hand, compress_all])
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_change_in_the_middle_of_training(make, act):
    results = []
    for mode in (contextlib.nullcontext, torch.inference_mode):
        model, algorithm, optimizer = attach(make, OPTIMIZERS["adam"])
        train(model, optimizer, 3)
        with mode():
            act(model, algorithm)
        train(model, optimizer, 3, start=3)
        results.append({**trained_by(model, algorithm), **masks_of(algorithm)})
    assert_same(*results)


def test_masks_of_a_meta_model_made_by_an_evaluation():
    with torch.device("meta"):
        model = make_mlp()
    algorithm = sparse.SET(sparsity=0.5, update=1)
    algorithm.apply(model)
    model.to_empty(device="cpu")
    for param in model.parameters():
        nn.init.normal_(param)
    with torch.inference_mode():
        model(torch.ones(2, 8))
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    for step in range(3):
        backward(model, step)
        optimizer.step()
        assert_pruned(algorithm, optimizer)


def made_in_inference_mode():
    with torch.inference_mode():
        return make_mlp()


def loaded_in_inference_mode():
    model, state = make_mlp(), make_mlp(1).state_dict()
    with torch.inference_mode():
        model.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
    return model


@pytest.mark.parametrize("make", [made_in_inference_mode, loaded_in_inference_mode])
@pytest.mark.parametrize("mode", [torch.inference_mode, contextlib.nullcontext])
def test_inference_tensors_are_refused_and_left_as_they_are(make, mode):
    model, algorithm = make(), sparse.Static(0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = r"0.weight: it was created under torch.inference_mode\(\) and cannot be modified"
    with mode(), pytest.raises(AttachError, match=text):
        algorithm.apply(model)
    assert_same(dict(model.state_dict()), before)
    assert not algorithm.sparse_params


def test_gradients_are_not_recorded_where_they_were_not_before():
    model, algorithm = make_mlp(), sparse.Static(0.5)
    with torch.inference_mode():
        algorithm.apply(model)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    for mask in masks_of(algorithm).values():
        assert not mask.is_inference()
        assert not mask.requires_grad
