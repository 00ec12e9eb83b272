"""Accelerate works without a callback: with `prepare` and `save_state`."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

import sparsewright as sparse
from helpers.support import assert_pruned, assert_same, batch, make_mlp
from sparsewright.errors import AttachError


@pytest.fixture(autouse=True)
def _new_accelerator():
    """Reset the settings that all Accelerators of a process share."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def group():
    return sparse.configure(
        [
            {"algorithm": "set", "sparsity": 0.5, "update": 2, "param_filter": "0.weight"},
            {"algorithm": "rigl", "sparsity": [0.5, 0.75], "update": 3},
        ]
    )


def prepared(order, sparsity, **options):
    """Return an Accelerator, and a sparse model and optimizer that it prepared."""
    accelerator = Accelerator(cpu=True, **options)
    model = make_mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.1)
    if order == "apply, prepare":
        sparsity.apply(model)
        sparsity.apply(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    if order == "prepare, apply":
        sparsity.apply(model)
        sparsity.apply(optimizer)
    accelerator.register_for_checkpointing(sparsity)
    return accelerator, model, optimizer


def train(accelerator, model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        with accelerator.accumulate(model):
            loss = model(batch(step, 5, 8)).pow(2).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("order", ["apply, prepare", "prepare, apply"])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, order, options):
    whole = group()
    first = prepared(order, whole, **options)
    train(*first, 8)
    first[0].save_state(str(tmp_path))
    train(*first, 6, start=8)

    resumed = group()
    second = prepared(order, resumed, **options)
    second[0].load_state(str(tmp_path))
    assert resumed.step == (4 if "gradient_accumulation_steps" in options else 8)
    train(*second, 6, start=8)
    assert_pruned(resumed, second[2].optimizer)
    assert_same(dict(first[1].state_dict()), dict(second[1].state_dict()))
    assert_same(first[2].state_dict()["state"], second[2].state_dict()["state"])
    assert resumed.state_dict() == whole.state_dict()


def test_the_order_of_prepare_and_apply_makes_no_difference():
    runs = []
    for order in ("apply, prepare", "prepare, apply"):
        run = prepared(order, group())
        train(*run, 8)
        runs.append(dict(run[1].state_dict()))
    assert_same(*runs)


class WithoutHooks(torch.optim.Optimizer):
    """An optimizer wrapper that has no hooks and hides its inner optimizer."""

    def __init__(self, optimizer):
        self.hidden = lambda: optimizer

    @property
    def param_groups(self):
        return self.hidden().param_groups


def test_an_optimizer_without_hooks_is_refused():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    with pytest.raises(AttachError, match="WithoutHooks: its __init__ did not call Optimizer"):
        sparsity.apply(WithoutHooks(torch.optim.SGD(model.parameters(), 0.1)))
