"""The contract of all choices together, in one process: structure, counts, zeros and resuming."""

import pytest
import torch

import sparsewright as sparse
from helpers.cases import loaded, saved
from helpers.product import (
    COMBINATIONS,
    POSSIBLE,
    SAVED,
    STEPS,
    Net,
    assert_contract,
    attach,
    covering,
    train_step,
)
from helpers.support import assert_same, masks_of
from sparsewright.errors import SparsewrightError

IMPOSSIBLE = [c for c in COMBINATIONS if c.why_not and c.precision == "float32"]


@pytest.mark.parametrize("combination", covering(POSSIBLE, 3), ids=str)
def test_the_contract_holds_after_every_step_and_after_resuming(combination):
    """Any three members that work together meet in one of the combinations."""
    model, sparsity, optimizer = attach(combination.config)
    if combination.storage != "compressed":  # only some layers can be compressed
        assert {p.storage.name for p in sparsity.sparse_params.values()} == {combination.storage}
    for step in range(STEPS):
        train_step(model, optimizer, step, combination.precision)
        assert_contract(combination, sparsity, optimizer)
        if sparsity.step == SAVED:
            data = saved(model, optimizer, sparsity)
    assert {name.removesuffix("_mask") for name in model.state_dict()} == set(Net().state_dict())
    again, resumed, other = attach(combination.config, Net(seed=1))
    for each, state in zip((again, other, resumed), loaded(data), strict=True):
        each.load_state_dict(state)
    for step in range(SAVED, STEPS):
        train_step(again, other, step, combination.precision)
    assert_same(model.state_dict(), again.state_dict())
    assert_same(optimizer.state_dict(), other.state_dict())
    assert_same(sparsity.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("combination", covering(POSSIBLE, 1), ids=str)
def test_the_contract_holds_with_torch_compile(combination):
    """Every member occurs, because each compilation takes a second."""
    torch._dynamo.reset()
    model, sparsity, optimizer = attach(combination.config)
    forward = torch.compile(model, backend="aot_eager")
    eager, plain, other = attach(combination.config)
    for step in range(STEPS):
        train_step(forward, optimizer, step, combination.precision)
        train_step(eager, other, step, combination.precision)
        assert_contract(combination, sparsity, optimizer)
        assert_same(masks_of(sparsity), masks_of(plain))


@pytest.mark.parametrize("combination", IMPOSSIBLE, ids=str)
def test_choices_that_do_not_work_together_are_one_error(combination):
    choices = {key: combination.config[key] for key in ("structure", "distribution", "storage")}
    config = {"algorithm": combination.algorithm, "sparsity": 0.5, **choices}
    with pytest.raises(SparsewrightError, match=combination.why_not):
        sparse.configure(config)
