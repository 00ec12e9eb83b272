"""Tests of copies, pickles and averages of a model in training and its algorithm."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.cases import OPTIMIZERS, attach, every_algorithm, step_once
from helpers.support import assert_pruned, assert_same, batch, masks_of


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
}
every_copy = pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)


@every_copy
@every_algorithm
def test_a_copy_of_the_model_is_equal_and_independent(make, way):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    twin = way(model)
    frozen = {key: value.clone() for key, value in twin.state_dict().items()}
    assert_same(dict(twin.state_dict()), dict(model.state_dict()))
    assert torch.equal(twin(batch(1, 5, 8)), model(batch(1, 5, 8)))
    for step in range(4, 7):
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
    assert_same(dict(twin.state_dict()), frozen)
    assert all(p.grad is None or p.grad is not own.grad for p, own in pairs(twin, model))


def pairs(first, second):
    return zip(first.parameters(), second.parameters(), strict=True)


@every_copy
@every_algorithm
def test_training_a_copy_leaves_the_original_alone(make, way):
    model, sparsity, optimizer = attach(make)
    step_once(model, optimizer, 1)
    before, masks = copy.deepcopy(dict(model.state_dict())), masks_of(sparsity)
    twin = way(model)
    plain = torch.optim.SGD(twin.parameters(), 0.1)
    for step in range(2, 5):
        step_once(twin, plain, step)
    assert sparsity.step == 1
    assert_same(dict(model.state_dict()), before)
    assert_same(masks_of(sparsity), masks)
    assert not torch.equal(twin[0].weight, model[0].weight)


@every_copy
@every_algorithm
def test_a_copied_model_goes_on_with_a_copied_algorithm(make, way):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    twin, twin_sparsity = way(model), copy.deepcopy(sparsity)
    twin_sparsity.apply(twin)
    twin_optimizer = OPTIMIZERS["sgd with momentum"](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin_sparsity.apply(twin_optimizer)
    for step in range(4, 8):
        step_once(model, optimizer, step)
        step_once(twin, twin_optimizer, step)
        assert_pruned(twin_sparsity, twin_optimizer)
    assert_same(dict(twin.state_dict()), dict(model.state_dict()))
    assert twin_sparsity.state_dict() == sparsity.state_dict()


@every_algorithm
def test_a_copied_model_stays_sparse_through_loading(make):
    model, _, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    twin = copy.deepcopy(model)
    twin.load_state_dict({key: torch.ones_like(value) for key, value in weights(twin).items()})
    for layer in (twin[0], twin[2]):
        assert torch.equal(layer.weight != 0, layer.weight_mask)


def weights(model):
    return {key: value for key, value in model.state_dict().items() if "mask" not in key}


@every_algorithm
def test_the_optimizer_can_be_copied_and_pickled(make):
    model, sparsity, optimizer = attach(make)
    step_once(model, optimizer, 1)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert_same(twin.state_dict(), optimizer.state_dict())
        twin.step()
        assert sparsity.step == 1
    step_once(model, optimizer, 2)
    assert_pruned(sparsity, optimizer)


@pytest.mark.parametrize("use_buffers", [False, True])
@every_algorithm
def test_ema_copies_average_the_weights_and_do_not_disturb(make, use_buffers):
    decay = 0.75
    model, sparsity, optimizer = attach(make)
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers
    )
    expected = [p.detach().clone() for p in model.parameters()]
    for step in range(1, 6):
        step_once(model, optimizer, step)
        average.update_parameters(model)
        assert_pruned(sparsity, optimizer)
        for own, p in zip(expected, model.parameters(), strict=True):
            own.copy_(p.detach() if step == 1 else decay * own + (1 - decay) * p.detach())
    for own, p in zip(expected, average.module.parameters(), strict=True):
        torch.testing.assert_close(own, p.detach())
    averaged = [average.module[index] for index in (0, 2)]
    if use_buffers:
        # Torch also averages the bool masks: a connection that was live in any step counts as live.
        assert not any(layer.weight[~layer.weight_mask].any() for layer in averaged)
    else:
        masks = list(masks_of(sparsity).values())
        assert_same([layer.weight_mask for layer in averaged], masks)
    assert average(batch(1, 5, 8)).isfinite().all()
    twin_model, _, twin_optimizer = attach(make)
    for step in range(1, 6):
        step_once(twin_model, twin_optimizer, step)
    assert_same(dict(twin_model.state_dict()), dict(model.state_dict()))
