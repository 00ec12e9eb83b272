"""The algorithms and optimizers of the contract tests, and a training loop with all features."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import pytorch_optimizer
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import batch, make_mlp

CUBIC = {"type": "cubic", "init": 0.1, "final": 0.75, "begin": 1, "end": 7}
COSINE = {"type": "cosine", "init": 0.5, "half_period": 8}

ALGORITHMS: dict[str, Callable[[], sparse.SparsityAlgorithm]] = {
    "static": lambda: sparse.Static(0.6),
    "gmp": lambda: sparse.GMP(CUBIC, update={"freq": 2, "start": 2}),
    "set": lambda: sparse.SET(COSINE, sparsity=0.6, update=2),
    "rigl": lambda: sparse.RigL([0.5, 0.25], sparsity=[0.5, 0.55, 0.6, 0.5], update={"freq": 2}),
    "rigl in groups": lambda: sparse.RigL(balance_in_groups=2, sparsity=0.6, update=1),
    "group": lambda: sparse.configure(
        [
            {"algorithm": "rigl", "sparsity": 0.6, "update": 3, "param_filter": "*0.weight"},
            {"algorithm": "set", "sparsity": 0.5, "update": {"steps": [0, 2, 5]}},
        ]
    ),
    "user-defined": lambda: sparse.configure(
        {"algorithm": "UserDefined", "sparsity": CUBIC, "update": lambda step: int(step) % 3 == 0}
    ),
}

OPTIMIZERS: dict[str, Callable[[object], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1),
    "sgd with momentum": lambda params: torch.optim.SGD(
        params, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True
    ),
    "adam": lambda params: torch.optim.Adam(params, 0.01, amsgrad=True, weight_decay=1e-2),
    "adamw": lambda params: torch.optim.AdamW(params, 0.01),
    "rmsprop": lambda params: torch.optim.RMSprop(params, 0.01, momentum=0.5, centered=True),
    # The next three optimizers change a state of zero.
    "adamax": lambda params: torch.optim.Adamax(params, 0.01),
    "adagrad": lambda params: torch.optim.Adagrad(params, 0.1, initial_accumulator_value=0.1),
    "adabelief of pytorch-optimizer": lambda params: pytorch_optimizer.AdaBelief(
        params, 0.01, weight_decay=1e-2
    ),
}

every_algorithm = pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS)
every_optimizer = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def attach(make, make_optimizer=OPTIMIZERS["sgd with momentum"], model=None, seed=0):
    """Return a sparsified model (an MLP by default), its algorithm and its optimizer."""
    model = make_mlp(seed) if model is None else model
    sparsity = make()
    sparsity.apply(model)
    optimizer = make_optimizer(model.parameters())
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


def backward_twice(model: nn.Module, step: int, inputs: Callable[[int], object] | None = None):
    """Run two micro-batches, each with two forward passes before one backward pass."""
    for micro in range(2):
        first, second = (
            batch(40 * step + 2 * micro + side, 5, 8) if inputs is None else inputs(4 * step + side)
            for side in range(2)
        )
        (model(first) - model(second) / 2).pow(2).mean().backward()


def step_once(model, optimizer, step, inputs=None):
    """Do one step with micro-batches and clipping; the `zero_grad` modes alternate."""
    optimizer.zero_grad(set_to_none=step % 2 == 0)
    backward_twice(model, step, inputs)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def due_and_level(sparsity, parameter, step):
    """Return whether a parameter's mask is due at a step, and its level."""
    algorithms = sparsity if isinstance(sparsity, sparse.Group) else [sparsity]
    (own,) = [a for a in algorithms if a.get_sparse_params(parameter.param) is parameter]
    if isinstance(own, sparse.Static):
        return False, own.sparsity[parameter.param](step)
    return bool(own.update_schedule(step)), own.sparsity[parameter.param](step)


def saved(*objects):
    """Return the state dicts of objects as the bytes of a checkpoint file."""
    file = io.BytesIO()
    torch.save([obj.state_dict() for obj in objects], file)
    return file.getvalue()


def loaded(data: bytes):
    """Load state dicts from the bytes of a checkpoint, without running arbitrary code."""
    return torch.load(io.BytesIO(data), weights_only=True)
