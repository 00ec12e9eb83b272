"""Models, training loops and checks that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import sparsewright as sparse

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
"""Major and minor version of torch."""


class UserDefined(sparse.DynamicSparsityAlgorithm):
    """Keep the entries with the largest |weight| plus noise, as a user's own algorithm."""

    def update_mask(self, p: Tensor, mask: Tensor, sparsity: Tensor) -> Tensor:
        return sparse.utils.make_mask_topk_sparsity(p.abs() + self.random_score(p), sparsity)


class UserStatic(sparse.Static):
    """A user's subclass of a library algorithm."""


def make_mlp(seed: int = 0, inputs: int = 8, hidden: int = 16, outputs: int = 4) -> nn.Sequential:
    """Build Linear, ReLU, Linear with weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def batch(step: int, *shape: int) -> Tensor:
    """Return normal numbers that depend only on `step`."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(*shape, generator=generator)


def backward(model: nn.Module, step: int = 0, scale: float = 1.0) -> None:
    """Run one backward pass of a `make_mlp` model on the batch of `step`."""
    (model(batch(step, 5, 8)).pow(2).mean() * scale).backward()


def train(model: nn.Module, optimizer: Optimizer, steps: int, start: int = 0) -> None:
    """Train a `make_mlp` model from step `start` on."""
    for step in range(start, start + steps):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def state_tensors(optimizer: Optimizer, param: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimizer-state tensors that have a parameter's shape, by name."""
    for key, value in optimizer.state.get(param, {}).items():
        if isinstance(value, Tensor) and value.shape == param.shape:
            yield key, value


def assert_pruned(sparsity: sparse.SparsityAlgorithm, *optimizers: Optimizer) -> None:
    """Assert invariant 1: weight, gradient and optimizer state are zero where the mask is False.

    For a shadowed weight this is checked for the weight only.
    """
    assert sparsity.num_sparse_params > 0
    for parameter in sparsity.sparse_params.values():
        pruned = ~parameter.mask
        assert parameter.mask.dtype == torch.bool
        assert not parameter.param.detach()[pruned].any(), f"weight of {parameter.name}"
        if parameter.storage.name == "shadowed":
            continue
        if parameter.param.grad is not None:
            assert not parameter.param.grad[pruned].any(), f"gradient of {parameter.name}"
        for optimizer in optimizers:
            for key, tensor in state_tensors(optimizer, parameter.param):
                assert not tensor[pruned].any(), f"{key} of {parameter.name}"


def masks_of(sparsity: sparse.SparsityAlgorithm) -> dict[str, Tensor]:
    """Return copies of all masks by full name."""
    return {name: p.mask.clone() for name, p in sparsity.sparse_params.items()}


def trained_by(model: nn.Module, sparsity: sparse.SparsityAlgorithm) -> dict[str, Tensor]:
    """Return what training changes except masks: weights, buffers and shadows."""
    state = {name: v for name, v in model.state_dict().items() if not name.endswith("_mask")}
    for algorithm in sparsity.algorithms:
        state |= {f"shadow of {name}": v for name, v in algorithm.shadows.items()}
    return state


def kept_of(sparsity: sparse.SparsityAlgorithm) -> dict[str, int]:
    """Return the number of live connections, counted from the masks, by full name."""
    return {name: int(p.mask.sum()) for name, p in sparsity.sparse_params.items()}


def assert_same(first: object, second: object, path: str = "") -> None:
    """Assert that two nested states are bit-equal (NaN equals NaN)."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor), path
        assert first.dtype == second.dtype, path
        assert first.shape == second.shape, path
        same = (first == second) | ((first != first) & (second != second))
        assert same.all(), path
    elif isinstance(first, dict):
        assert isinstance(second, dict), path
        assert list(first) == list(second), path
        for key, value in first.items():
            assert_same(value, second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{path}[{index}]")
    else:
        assert first == second, path
