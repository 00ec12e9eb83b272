"""Several optimizers, calls of `update`, and calls between a backward pass and its step."""

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import backward, make_mlp, train
from sparsewright.errors import SparsityWarning


def steps_at_which_masks_change(model, sparsity, optimizer, steps):
    seen = []
    handle = sparsity.register_mask_update_hook(lambda event: seen.append(event.step))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, next(model.parameters()).shape[1])).square().sum().backward()
        optimizer.step()
    handle.remove()
    return sorted(set(seen))


def test_update_schedule_goes_on_with_a_new_optimizer():
    model = make_mlp()
    sparsity = sparse.RigL(sparsity=0.5, update={"freq": 2, "stop": 5})
    sparsity.apply(model)
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity.apply(first)
    assert steps_at_which_masks_change(model, sparsity, first, 3) == [2]
    second = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity.apply(second)
    assert steps_at_which_masks_change(model, sparsity, second, 4) == [4]
    assert sparsity.step == 7


def test_optimizers_of_different_parameters_count_alone():
    one, two = make_mlp(), make_mlp()
    sparsity = sparse.SET(sparsity=0.5, update=2)
    sparsity.apply(one)
    sparsity.apply(two)
    first = torch.optim.SGD(one.parameters(), lr=0.1)
    sparsity.apply(first)
    steps_at_which_masks_change(one, sparsity, first, 3)
    second = torch.optim.SGD(two.parameters(), lr=0.1)
    sparsity.apply(second)
    assert steps_at_which_masks_change(two, sparsity, second, 3) == [2]


def test_state_written_by_hand_is_gone_when_a_connection_grows():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    sparsity = sparse.Static(sparsity=0.5)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity.apply(optimizer)
    model[0].weight.grad = torch.ones(4, 4)
    optimizer.step()
    parameter = sparsity.sparse_params["0.weight"]
    grown = ~parameter.mask
    parameter.mask = torch.ones(4, 4, dtype=torch.bool)
    assert (optimizer.state[model[0].weight]["momentum_buffer"][grown] == 0).all()
    assert (model[0].weight[grown] == 0).all()


def test_steps_of_an_optimizer_without_sparse_parameters_do_not_count():
    model, sparsity = make_mlp(), sparse.SET(sparsity=[0.3, 0.5, 0.7], update=2)
    sparsity.apply(model)
    weights = SGD([model[0].weight, model[2].weight], 0.1)
    biases = SGD([model[0].bias, model[2].bias], 0.1)
    sparsity.apply(weights)
    sparsity.apply(biases)
    levels = []
    sparsity.register_mask_update_hook(lambda update: levels.append((update.step, update.target)))
    for step in range(4):
        backward(model, step)
        weights.step()
        for _ in range(3):
            biases.step()
    assert sparsity.step == 4
    assert levels == [(2, 0.5)] * 2 + [(4, 0.7)] * 2


def test_an_update_of_all_counts_for_every_optimizer():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=4)
    sparsity.apply(model)
    optimizers = [SGD(model[0].parameters(), 0.1), SGD(model[2].parameters(), 0.1)]
    for optimizer in optimizers:
        sparsity.apply(optimizer)
    sparsity.autoupdate = False
    updated = []
    sparsity.register_mask_update_hook(lambda update: updated.append((update.step, update.name)))
    for step in range(4):
        sparsity.load_state_dict(sparsity.state_dict())  # restarts the collection for the next step
        model.zero_grad()
        backward(model, step)
        for optimizer in optimizers:
            optimizer.step()
        sparsity.update()
    assert sparsity.state_dict()["steps"] == [4, 4]
    assert updated == [(4, "0.weight"), (4, "2.weight")]


def test_applying_again_keeps_the_gradient_that_has_arrived():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=1)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    updated = []
    sparsity.register_mask_update_hook(lambda update: updated.append(update.name))
    backward(model)
    with pytest.warns(SparsityWarning, match="already sparse and were left unchanged"):
        sparsity.apply(model)
    sparsity.initialize()
    optimizer.step()
    assert updated == ["0.weight", "2.weight"]


def test_an_error_in_a_hook_lets_the_gradients_go():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=1)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)

    def fail(update):
        raise RuntimeError("from the hook")

    handle = sparsity.register_mask_update_hook(fail)
    backward(model)
    with pytest.raises(RuntimeError, match="from the hook"):
        optimizer.step()
    assert all(
        sparsity.session.tap_of(p).gradient() is None for p in sparsity.sparse_params.values()
    )
    handle.remove()
    updated = []
    sparsity.register_mask_update_hook(lambda update: updated.append(update.name))
    optimizer.zero_grad()
    train(model, optimizer, 1)
    assert updated == ["0.weight", "2.weight"]


LBFGS_MASKS = {
    "set": lambda: sparse.SET(0.3, sparsity=0.8, update=5),
    "rigl": lambda: sparse.RigL(0.3, sparsity=0.8, update=5),
    "gmp": lambda: sparse.GMP(sparsity={"type": "linear", "init": 0, "slope": 0.02}, update=5),
}


@pytest.mark.parametrize("make", LBFGS_MASKS.values(), ids=LBFGS_MASKS)
def test_lbfgs_starts_anew_after_each_change_of_masks(make):
    torch.manual_seed(0)
    model, sparsity = make_mlp(0, 16, 32, 4), make()
    sparsity.apply(model)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4)
    sparsity.apply(optimizer)
    x = torch.randn(64, 16)
    known = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x[:, :4] * x[:, 4:8]).square().mean()
        loss.backward()
        return loss

    for _ in range(40):
        loss = optimizer.step(closure).item()
        known.append(bool(optimizer.state[optimizer.param_groups[0]["params"][0]]))
    assert known == 8 * [True, True, True, True, False]
    assert loss < 0.7
