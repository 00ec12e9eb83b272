"""The product of all choices: a model with every kind of layer, and the contract of one step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import sparsewright as sparse
from helpers.choices import (
    ALGORITHMS,
    DISTRIBUTIONS,
    STORAGES,
    STRUCTURES,
    config_of,
    why_not,
)
from helpers.level_twins import budget_of
from helpers.patterns import assert_pattern
from helpers.support import batch
from helpers.twins import kept_exactly
from sparsewright.core.counts import as_decimal
from sparsewright.kernels.sharded import whole

STEPS, SAVED = 4, 2  # masks change after steps 2 and 4, where rising levels end
Each = TypeVar("Each", bound=tuple[str, ...])


class Net(nn.Module):
    """A convolution, an embedding, layers that store (in, out, ...), and linear layers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(
                [
                    nn.Conv1d(8, 16, 3, padding=1),
                    nn.Embedding(16, 8),
                    nn.ConvTranspose1d(16, 8, 3, padding=1),
                    Conv1D(16, 8),
                    nn.Linear(16, 8),
                    nn.Linear(8, 16),
                ]
            )

    def forward(self, tokens):
        conv, embed, up, mix, body, head = self.layers
        x = up(conv(embed(tokens).mT).tanh()).mT.contiguous()
        return head(body(mix(x).tanh()).tanh()).tanh()


INPUTS_FIRST = ("layers.2.weight", "layers.3.weight")


class Combination(NamedTuple):
    """One member of each choice.

    Attributes:
        precision: `"float32"`, `"bfloat16"` (autocast) or `"scaled"` (autocast to float16, with a
            `GradScaler`).
    """

    algorithm: str
    structure: str
    distribution: str
    storage: str
    precision: str = "float32"

    @property
    def config(self) -> dict[str, object]:
        choices = {
            "structure": STRUCTURES[self.structure],
            "distribution": DISTRIBUTIONS[self.distribution],
            "storage": self.storage,
            "param_filter": "*.weight",
        }
        return config_of(self.algorithm, **choices)

    @property
    def why_not(self) -> str:
        """Return a pattern of the error that the combination raises; "" if it works."""
        structure, distribution = STRUCTURES[self.structure], DISTRIBUTIONS[self.distribution]
        return why_not(self.algorithm, structure, distribution, self.storage)

    def __str__(self) -> str:
        return "-".join(self)


PRECISIONS = ["float32", "bfloat16", "scaled"]
COMBINATIONS = [
    Combination(*each)
    for each in itertools.product(ALGORITHMS, STRUCTURES, DISTRIBUTIONS, STORAGES, PRECISIONS)
]
POSSIBLE = [each for each in COMBINATIONS if not each.why_not]


def covering(every: Iterable[Each], strength: int) -> list[Each]:
    """Return combinations in which any `strength` members meet that meet in `every`.

    The result is the same in each run.
    """
    found, seen, shuffled = [], set(), list(every)
    random.Random(0).shuffle(shuffled)
    for each in shuffled:
        meetings = set(itertools.combinations(enumerate(each), strength))
        if not meetings <= seen:
            seen |= meetings
            found.append(each)
    return found


def spread() -> list[tuple[str, ...]]:
    """Return combinations for several ranks, each with `"replicas"` or `"shards"` as last item."""
    unscaled = [each for each in POSSIBLE if each.precision != "scaled"]
    return covering([(*each, how) for each in unscaled for how in ("replicas", "shards")], 2)


def attach(config, model=None):
    """Return a sparse model, its algorithm and an optimizer with state."""
    model = Net() if model is None else model
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


def loss_of(model, step: int, precision: str = "float32", rank: int = 0, world: int = 1):
    """Return the loss on one rank's part of the batch of a step."""
    tokens = torch.arange(step, step + 4 * 6).reshape(4, 6) * (step + 1) % 16
    goal = batch(step, 4, 6, 16)
    dtype = {"scaled": torch.float16}.get(precision, torch.bfloat16)
    with torch.autocast("cpu", dtype=dtype, enabled=precision != "float32"):
        out = model(tokens.chunk(world)[rank])
    return (out.float() - goal.chunk(world)[rank]).pow(2).mean()


def train_step(model, optimizer, step: int, precision: str = "float32") -> None:
    """Make one training step."""
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", 2.0**7, enabled=precision == "scaled")
    scaler.scale(loss_of(model, step, precision)).backward()
    scaler.step(optimizer)


def assert_contract(combination: Combination, sparsity, optimizer) -> None:
    """Assert what holds after every step: structure, counts, and zeros outside of the mask."""
    (own,) = sparsity.algorithms
    parameters = sparsity.sparse_params
    assert set(parameters) == {f"layers.{index}.weight" for index in range(6)}
    due = own.update_steps(sparsity.step)
    asked = as_decimal(own.schedules.value("sparsity", due[-1])) if due else as_decimal(0)
    levels = levels_of(combination, own, parameters, due[-1] if due else None)
    kept = 0
    for name, parameter in parameters.items():
        mask = whole(parameter.mask)
        structure = STRUCTURES[combination.structure if due else "unstructured"]
        out_first = mask.transpose(0, 1) if name in INPUTS_FIRST else mask
        assert_pattern(structure, out_first, float(as_decimal(levels[name])))
        assert parameter.kept == int(mask.sum())
        kept += parameter.kept
        assert_pruned(parameter, optimizer)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if combination.structure == "unstructured" and due:
        total = sum(p.shape.numel() for p in parameters.values())
        if own.distribution.has_exact_total:
            assert kept == kept_exactly(float(asked), total)
        if combination.distribution in ("er", "erk"):
            assert -len(shapes) <= kept - budget_of(shapes, float(asked)) <= 0


def levels_of(combination: Combination, own, parameters, step: int | None):
    """Return the level of each weight since the update at a step; None if there was none yet.

    Levels that depend on the weights are those that the algorithm reports.
    """
    if step is None:
        return dict.fromkeys(parameters, 0.0)
    if own.distribution.needs_weights:
        return {name: own.level_at(p, step) for name, p in parameters.items()}
    asked = float(as_decimal(own.schedules.value("sparsity", step)))
    made = sparse.distributions.make_distribution(DISTRIBUTIONS[combination.distribution])
    return made({name: p.shape for name, p in parameters.items()}, asked, None)


def assert_pruned(parameter, optimizer) -> None:
    """Assert that weight, gradient and optimizer state are zero where the mask is False."""
    pruned, storage = ~whole(parameter.mask), parameter.storage.name
    if storage == "compressed":
        assert not parameter.storage.weight()[pruned].any()
        assert all(
            state["momentum_buffer"].shape == (parameter.kept,)
            for state in parameter.states(optimizer)
        )
        return
    assert not whole(parameter.param.detach())[pruned].any()
    if storage == "masked":
        assert not whole(parameter.param.grad)[pruned].any()
        for state in parameter.states(optimizer):
            assert not whole(state["momentum_buffer"])[pruned].any()
