"""Runs that version 0.1 saved halfway, to be repeated and resumed by the current version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import sparsewright as sparse

FOLDER = Path(__file__).parents[1] / "fixtures/version_0_1"
SECTIONS = [FOLDER / f"configs/{name}.yaml" for name in ("present", "nested", "older", "number")]
SAVED_AT, END = 9, 20
CUBIC = {"type": "cubic", "init": 0.2, "final": 0.75, "begin": 1, "end": 14}
COSINE = {"type": "cosine", "init": 0.5, "half_period": 18}
RIGL = {"algorithm": "rigl", "sparsity": 0.6, "update": 3, "param_filter": "*0.weight"}


class KeepsLargest(sparse.DynamicSparsityAlgorithm):
    """Keep the entries with the largest |weight| plus noise, as a user's own algorithm."""

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        return sparse.utils.make_mask_topk_sparsity(p.abs() + self.random_score(p), sparsity)


ALGORITHMS: dict[str, Callable[[], sparse.SparsityAlgorithm]] = {
    "static": lambda: sparse.Static(0.6, init_method="topk"),
    "gmp": lambda: sparse.GMP(CUBIC, update={"freq": 2, "start": 2}),
    "set": lambda: sparse.SET(COSINE, sparsity=0.6, update=2),
    "rigl": lambda: sparse.RigL([0.5, 0.25], sparsity=[0.5, 0.55, 0.6, 0.5], update={"freq": 2}),
    "rigl_in_groups": lambda: sparse.RigL(balance_in_groups=2, sparsity=0.6, update=1, seed=3),
    "group": lambda: sparse.configure(
        [RIGL, {"algorithm": "set", "sparsity": 0.5, "update": {"steps": [0, 4, 11]}}]
    ),
    "user_defined": lambda: KeepsLargest(sparsity=CUBIC, update=3),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda params: AdamW(params, 0.01),
    "sgd": lambda params: SGD(params, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
}
STORAGES = ["masked", "compressed"]
RUNS = ["-".join(parts) for parts in product(ALGORITHMS, STORAGES, OPTIMIZERS)]


def make_model() -> nn.Sequential:
    """Build Linear, ReLU, Linear with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def make_run(name: str) -> tuple[nn.Module, sparse.SparsityAlgorithm, Optimizer]:
    """Return the model, algorithm and optimizer of one of RUNS at its start."""
    algorithm, storage, optimizer = name.split("-")
    model, sparsity = make_model(), ALGORITHMS[algorithm]()
    sparsity.apply(model)
    if storage == "compressed":
        sparse.compress(model, min_sparsity=0.0, verbose=False)
    made = OPTIMIZERS[optimizer](model.parameters())
    sparsity.apply(made)
    return model, sparsity, made


def train(model: nn.Module, optimizer: Optimizer, start: int, end: int) -> None:
    """Train from step `start` to `end` on batches that depend on the step only."""
    for step in range(start, end):
        inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).pow(2).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def configured(section: object) -> dict[str, Tensor]:
    """Train a model with a config's section, and return its state."""
    model = make_model()
    sparsity = sparse.configure(section)
    sparsity.apply(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsity.apply(optimizer)
    train(model, optimizer, 0, SAVED_AT)
    return state_of(model)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state; compressed and masked models have equal states."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rounding() -> str:
    """Return a digest of this machine's rounding: of a run of plain torch and the kernels used."""
    digest = hashlib.sha256(str(sparse.kernels.info()["isa"]).encode())
    for make in OPTIMIZERS.values():
        model = make_model()
        train(model, make(model.parameters()), 0, END)
        for parameter in model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()
