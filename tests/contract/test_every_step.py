"""Tests of invariants 1 to 8 after every step, for every algorithm and optimizer."""

import pytest
import torch
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.cases import (
    ALGORITHMS,
    attach,
    backward_twice,
    due_and_level,
    every_algorithm,
    every_optimizer,
    step_once,
)
from helpers.support import assert_pruned, assert_same, make_mlp, masks_of, state_tensors
from helpers.twins import kept_exactly
from sparsewright import kernels

STEPS = 8


def as_level(value):
    """Return the shortest decimal of a 0-d float32 tensor, clamped."""
    return min(max(float(str(value.numpy())), 0.0), 1.0)


def rows(sparsity, parameter):
    """Return the mask as rows of competing entries."""
    shaper = getattr(sparsity, "score_shaper", None)
    return parameter.mask.reshape(1, -1) if shaper is None else shaper(parameter.mask)[0]


@every_optimizer
@every_algorithm
def test_invariants(make, make_optimizer):
    model, sparsity, optimizer = attach(make, make_optimizer)
    assert_pruned(sparsity, optimizer)
    for step in range(1, STEPS + 1):
        before = masks_of(sparsity)
        weights = {n: p.param.detach().clone() for n, p in sparsity.sparse_params.items()}
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        backward_twice(model, step)
        assert_pruned(sparsity)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        generator = torch.get_rng_state()
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), generator)
        assert sparsity.step == step
        assert_pruned(sparsity, optimizer)
        for name, parameter in sparsity.sparse_params.items():
            due, level = due_and_level(sparsity, parameter, step)
            if not due:
                assert torch.equal(parameter.mask, before[name])
                continue
            for row in rows(sparsity, parameter):
                assert int(row.sum()) == kept_exactly(as_level(level), row.numel())
            grown = parameter.mask & ~before[name]
            dropped = before[name] & ~parameter.mask
            changed = grown | dropped
            assert not parameter.param.detach()[changed].any()
            for key, tensor in state_tensors(optimizer, parameter.param):
                assert not tensor[changed].any(), key
            stayed = parameter.mask & before[name]
            assert (parameter.param.detach() != weights[name])[stayed].any()


@every_algorithm
def test_the_start(make):
    """Check masks after attach: exact counts if training starts sparse, all ones if dense."""
    _model, sparsity, _optimizer = attach(make)  # keep the model alive
    for parameter in sparsity.sparse_params.values():
        due, level = due_and_level(sparsity, parameter, 0)
        starts_sparse = due or make is ALGORITHMS["static"]
        for row in rows(sparsity, parameter):
            n = row.numel()
            expected = kept_exactly(as_level(level), n) if starts_sparse else n
            assert int(row.sum()) == expected


class Operations(TorchDispatchMode):
    """Count the operations on tensors as large as a weight (schedules are 0-d)."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(arg, torch.Tensor) and arg.numel() >= 64 for arg in args):
            name = func.overloadpacket.__name__
            self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def operations(model, optimizer, step):
    with Operations() as operations:
        step_once(model, optimizer, step)
    return operations.counts


@pytest.fixture
def kernel_calls(monkeypatch):
    """Record the names of the kernels called, as dispatch modes do not see native kernels."""
    calls = []
    for name in ("prune_", "prune_many_", "select", "count_rows", "count_changes"):
        kernel = getattr(kernels, name)

        def call(*args, _name=name, _kernel=kernel, **kwargs):
            calls.append(_name)
            return _kernel(*args, **kwargs)

        monkeypatch.setattr(kernels, name, call)
    return calls


@every_algorithm
def test_steps_without_updates_only_prune(make, kernel_calls):
    """Check invariant 3: no selection, sort or cloned gradient; one fill per pruned tensor."""
    model, sparsity, optimizer = attach(make)
    quiet = [
        step
        for step in range(1, STEPS)
        if not any(due_and_level(sparsity, p, step)[0] for p in sparsity.sparse_params.values())
    ]
    twin = make_mlp()
    plain = SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
    for step in range(1, STEPS):
        if step not in quiet:
            step_once(model, optimizer, step)
            step_once(twin, plain, step)
            continue
        kernel_calls.clear()
        mine, theirs = operations(model, optimizer, step), operations(twin, plain, step)
        # Each gradient is pruned in each of two micro-batches. Then one call prunes what was
        # written to all gradients since, and one call prunes what the step wrote to all weights.
        expected = ["prune_"] * 2 * sparsity.num_sparse_params + ["prune_many_"] * 2
        assert kernel_calls == expected
        extra = {key: mine[key] - theirs.get(key, 0) for key in mine}
        for reference in ("masked_fill_", "bitwise_not", "detach"):
            extra.pop(reference, None)
        assert {key: n for key, n in extra.items() if n > 0} == {}
    assert quiet or make in (ALGORITHMS["rigl in groups"],)


@every_algorithm
def test_update_steps_do_select(make, kernel_calls):
    """Show that the test above can fail: its counter sees an update."""
    model, sparsity, optimizer = attach(make)
    seen = {}
    for step in range(1, STEPS):
        due = any(due_and_level(sparsity, p, step)[0] for p in sparsity.sparse_params.values())
        kernel_calls.clear()
        step_once(model, optimizer, step)
        seen.setdefault(due, set()).update(kernel_calls)
    if make is ALGORITHMS["static"]:
        assert list(seen) == [False]
    else:
        assert {"select", "count_changes"} <= seen[True]
    assert seen.get(False, set()) <= {"prune_", "prune_many_"}


@every_algorithm
def test_two_runs_are_bit_equal(make):
    """Check invariants 5 and 8: earlier random draws and runs have no effect."""
    states = []
    for _ in range(2):
        model, sparsity, optimizer = attach(make)
        torch.rand(3)
        for step in range(1, STEPS):
            step_once(model, optimizer, step)
        states.append((dict(model.state_dict()), sparsity.state_dict(), optimizer.state_dict()))
    assert_same(*states)
