"""An optimizer that takes over another's parameters goes on where that one stopped."""

import torch

import sparsewright as sparse
from support import make_mlp


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
