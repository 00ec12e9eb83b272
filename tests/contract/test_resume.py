"""Tests that runs saved after any step resume bit for bit like uninterrupted runs."""

import itertools

import pytest

from helpers.cases import (
    ALGORITHMS,
    OPTIMIZERS,
    attach,
    every_algorithm,
    every_optimizer,
    loaded,
    saved,
    step_once,
)
from helpers.support import assert_pruned, assert_same, make_mlp, masks_of

STEPS = 7
ORDERS = list(itertools.permutations(range(3)))


def result(model, sparsity, optimizer):
    return (
        masks_of(sparsity),
        dict(model.state_dict()),
        optimizer.state_dict(),
        sparsity.state_dict(),
    )


@every_optimizer
@every_algorithm
def test_resumed_equals_uninterrupted(make, make_optimizer):
    model, sparsity, optimizer = attach(make, make_optimizer)
    checkpoints = [saved(model, optimizer, sparsity)]
    for step in range(1, STEPS + 1):
        step_once(model, optimizer, step)
        checkpoints.append(saved(model, optimizer, sparsity))
    expected = result(model, sparsity, optimizer)
    for done, checkpoint in enumerate(checkpoints):
        new = attach(make, make_optimizer, seed=99)
        objects = new[0], new[2], new[1]
        states = loaded(checkpoint)
        for index in ORDERS[done % len(ORDERS)]:
            objects[index].load_state_dict(states[index])
        assert new[1].step == done
        for step in range(done + 1, STEPS + 1):
            step_once(new[0], new[2], step)
            assert_pruned(new[1], new[2])
        assert_same(result(*new), expected, f"after {done}")


@pytest.mark.parametrize("order", ORDERS, ids=str)
@every_algorithm
def test_the_order_of_loading_does_not_matter(make, order):
    model, sparsity, optimizer = attach(make, OPTIMIZERS["adam"])
    for step in range(1, 4):
        step_once(model, optimizer, step)
    states = loaded(saved(model, optimizer, sparsity))
    new = attach(make, OPTIMIZERS["adam"], seed=99)
    for index in order:
        (new[0], new[2], new[1])[index].load_state_dict(states[index])
    for step in range(4, 7):
        step_once(model, optimizer, step)
        step_once(new[0], new[2], step)
    assert_same(result(*new), result(model, sparsity, optimizer))


@every_algorithm
def test_state_may_be_loaded_before_anything_is_attached(make):
    model, sparsity, optimizer = attach(make)
    for step in range(1, 5):
        step_once(model, optimizer, step)
    states = loaded(saved(model, optimizer, sparsity))
    new_model, new = make_mlp(7), make()
    new.load_state_dict(states[2])
    new.apply(new_model)
    new_model.load_state_dict(states[0])
    new_optimizer = OPTIMIZERS["sgd with momentum"](new_model.parameters())
    new_optimizer.load_state_dict(states[1])
    new.apply(new_optimizer)
    for step in range(5, 8):
        step_once(model, optimizer, step)
        step_once(new_model, new_optimizer, step)
    assert_same(result(new_model, new, new_optimizer), result(model, sparsity, optimizer))


def test_a_run_that_forgets_its_algorithm_differs():
    """Show that the tests above can fail: without the algorithm's state, masks differ."""
    make = ALGORITHMS["rigl"]
    model, sparsity, optimizer = attach(make)
    for step in range(1, 4):
        step_once(model, optimizer, step)
    states = loaded(saved(model, optimizer, sparsity))
    new = attach(make, seed=99)
    new[0].load_state_dict(states[0])
    new[2].load_state_dict(states[1])
    for step in range(4, 7):
        step_once(model, optimizer, step)
        step_once(new[0], new[2], step)
    mask, other = masks_of(sparsity)["0.weight"], masks_of(new[1])["0.weight"]
    assert (mask != other).any()
