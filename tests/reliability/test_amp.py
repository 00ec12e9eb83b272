"""Mixed precision: autocast, gradient scaling with overflows, low-precision and master weights."""

import copy
import math

import pytest
import torch
from torch.func import functional_call

import sparsewright as sparse
from helpers.cases import OPTIMIZERS, attach, every_algorithm
from helpers.support import (
    assert_pruned,
    assert_same,
    batch,
    kept_of,
    make_mlp,
    masks_of,
    state_tensors,
)
from sparsewright.errors import SparsityWarning

STEPS = 6
FUSED = {
    "adam": lambda fused: lambda params: torch.optim.Adam(params, 0.01, fused=fused),
    "sgd": lambda fused: lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, fused=fused),
}


def loss_of(model, step, dtype=torch.float32):
    """Return the loss of one batch, under autocast unless the dtype is float32."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        y = model(batch(step, 5, 8))
    assert y.dtype == dtype
    return y.float().pow(2).mean()


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@every_algorithm
def test_autocast(make, dtype, storage):
    """Micro-batches, unscaling and clipping work in each dtype, with losses close to float32."""
    runs = [autocast_run(make, kind, storage) for kind in (dtype, torch.float32)]
    (own_kept, own_losses), (kept, losses) = runs
    assert own_kept == kept
    torch.testing.assert_close(own_losses, losses, rtol=0.03, atol=0)
    _, wrong = autocast_run(make, torch.float32, storage, seed=1)
    assert not torch.allclose(wrong, losses, rtol=0.03, atol=0)


def autocast_run(make, dtype, storage, seed=0):
    sparsity = make()
    for algorithm in getattr(sparsity, "algorithms", [sparsity]):
        algorithm.storage = storage
    model, _, optimizer = attach(lambda: sparsity, OPTIMIZERS["sgd"], seed=seed)
    scaler, losses = torch.amp.GradScaler("cpu", 1024.0), []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        for micro in range(2):
            loss = loss_of(model, 2 * step + micro, dtype)
            scaler.scale(loss).backward()
            losses.append(loss.detach())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        assert sparsity.step == step
        for parameter in sparsity.sparse_params.values():
            if storage == "masked":
                assert_pruned(sparsity, optimizer)
            assert parameter.param.dtype == torch.float32
    return kept_of(sparsity), torch.stack(losses)


@pytest.mark.parametrize("clip", [False, True], ids=["", "unscale and clip"])
@pytest.mark.parametrize("overflowing", [0, 1], ids=["first batch", "later batch"])
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("kind", FUSED)
@every_algorithm
def test_overflows_leave_no_trace(make, kind, fused, overflowing, clip):
    """A run with additional steps that overflow is bit-equal to a run without them."""
    overflows = overflow_run(make, FUSED[kind](fused), clip, overflowing)
    plain = overflow_run(make, FUSED[kind](fused), clip, None)
    assert_same(overflows, plain)


def overflow_run(make, make_optimizer, clip, overflowing):
    """Train and return the final state and dense gradients.

    Args:
        make: makes the algorithm.
        make_optimizer: makes the optimizer.
        clip: whether to unscale and clip the gradients.
        overflowing: index of the micro-batch that overflows; None: no overflow.
    """
    model, sparsity, optimizer = attach(make, make_optimizer)
    scaler = torch.amp.GradScaler("cpu", 2.0**30)

    def attempt(step, factors):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        for micro, factor in enumerate(factors):
            scaler.scale(loss_of(model, 2 * step + micro) * factor).backward()
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()

    for step in range(1, STEPS + 1):
        # No overflow before the first step: torch's fused SGD then starts with momentum from
        # uninitialized memory.
        if overflowing is not None and step > 1:
            before = masks_of(sparsity), copy.deepcopy(sparsity.state_dict()), scaler.get_scale()
            attempt(step + 50, [math.inf if m == overflowing else 1.0 for m in range(2)])
            assert scaler.get_scale() == before[2] / 2
            assert_same((masks_of(sparsity), sparsity.state_dict()), before[:2])
        attempt(step, [1.0, 1.0])
        assert sparsity.step == step
        assert_pruned(sparsity, optimizer)
    state = dict(model.state_dict()), optimizer.state_dict()["state"], sparsity.state_dict()
    return copy.deepcopy(state), collected(sparsity)


@pytest.mark.parametrize("kind", FUSED)
@every_algorithm
def test_an_overflow_at_the_first_fused_step_leaves_no_state_outside_of_the_mask(make, kind):
    _, sparsity, optimizer = attach(make, FUSED[kind](True))
    scaler = torch.amp.GradScaler("cpu", 4.0)
    torch.full((16, 8), 7.0)  # fills the memory that the next allocation of this size reuses
    model = optimizer.param_groups[0]["params"]
    scaler.scale(sum(p.sum() for p in model) * math.inf).backward()
    scaler.step(optimizer)
    assert optimizer.state[model[0]]
    assert_pruned(sparsity, optimizer)
    assert sparsity.step == 0


def collected(sparsity):
    """Return the names of the parameters that still hold a dense gradient."""
    algorithms = getattr(sparsity, "algorithms", [sparsity])
    return [
        [name for name, p in a.sparse_params.items() if a.session.tap_of(p).gradient()]
        for a in algorithms
    ]


class InnerMasters(torch.optim.Optimizer):
    """SGD with momentum that keeps float32 master weights in its state."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state["master"], state["momentum"] = p.float(), torch.zeros(p.shape)
                    state["momentum"].mul_(0.9).add_(p.grad.float() + 0.01)
                    state["master"].sub_(group["lr"] * state["momentum"])
                    p.copy_(state["master"])


@pytest.mark.parametrize("make_optimizer", [OPTIMIZERS["adamw"], InnerMasters])
@every_algorithm
def test_bfloat16_weights(make, make_optimizer):
    """bfloat16 weights train with bfloat16 state, and with float32 master weights in the state."""
    model, sparsity, optimizer = attach(make, make_optimizer, make_mlp().bfloat16())
    for step in range(1, STEPS + 1):
        before = masks_of(sparsity)
        optimizer.zero_grad()
        model(batch(step, 5, 8).bfloat16()).float().pow(2).mean().backward()
        optimizer.step()
        assert_pruned(sparsity, optimizer)
        for name, parameter in sparsity.sparse_params.items():
            assert parameter.param.dtype == torch.bfloat16
            grown = parameter.mask & ~before[name]
            assert not parameter.param.detach()[grown].any()
            for _, tensor in state_tensors(optimizer, parameter.param):
                assert tensor[parameter.mask].any()
                assert not tensor[grown].any()


@pytest.mark.parametrize("how", ["assigned", "copied in place"])
@every_algorithm
def test_master_module_with_a_bfloat16_working_copy(make, how):
    """Copying gradients to the masters is equivalent to a backward pass through a cast."""
    by_hand, by_autograd = attach(make), attach(make)
    working = copy.deepcopy(by_hand[0]).bfloat16()
    for step in range(1, STEPS + 1):
        x = batch(step, 5, 8).bfloat16()
        train_by_hand(*by_hand, working, x, how)
        model, sparsity, optimizer = by_autograd
        optimizer.zero_grad()
        low = {name: p.bfloat16() for name, p in model.named_parameters()}
        functional_call(model, low, (x,)).float().pow(2).mean().backward()
        optimizer.step()
        assert_pruned(by_hand[1], by_hand[2])
        assert_same(masks_of(by_hand[1]), masks_of(sparsity))
        assert_same(dict(by_hand[0].state_dict()), dict(model.state_dict()))
        for name, parameter in by_hand[1].sparse_params.items():
            assert not working.get_parameter(name)[~parameter.mask].any()
            assert working.get_parameter(name)[parameter.mask].any()


def train_by_hand(model, sparsity, optimizer, working, x, how):
    """Make one step of the usual loop with a working copy."""
    working.zero_grad()
    working(x).float().pow(2).mean().backward()
    for master, copied in zip(model.parameters(), working.parameters(), strict=True):
        if how == "assigned" or master.grad is None:
            master.grad = copied.grad.float()
        else:
            master.grad.copy_(copied.grad)
    optimizer.step()
    with torch.no_grad():
        for master, copied in zip(model.parameters(), working.parameters(), strict=True):
            copied.copy_(master)


def test_rigl_keeps_its_mask_if_the_gradient_is_already_pruned(caplog):
    """A sparse working copy cannot provide a dense gradient, and RigL logs this."""
    model, sparsity, optimizer = attach(lambda: sparse.RigL(sparsity=0.5, update=1))
    before = masks_of(sparsity)
    for p in model.parameters():
        p.grad = torch.ones_like(p) * (p != 0)
    optimizer.step()
    assert_same(masks_of(sparsity), before)
    text = "0.weight: mask not updated because the gradient was already pruned"
    assert text in caplog.text


@pytest.mark.parametrize("first", ["model", "optimizer"])
@every_algorithm
def test_an_optimizer_over_clones_of_the_weights_warns(make, first):
    model, sparsity = make_mlp(), make()
    optimizer = torch.optim.SGD([p.detach().clone() for p in model.parameters()], 0.1)
    for obj in (model, optimizer) if first == "model" else (optimizer, model):
        sparsity.apply(obj)
    text = r"no sparse parameter, so masks will not be updated; call apply\(\) on the module"
    with pytest.warns(SparsityWarning, match=text):
        optimizer.step()
    optimizer.step()


@every_algorithm
def test_a_second_optimizer_for_dense_weights_does_not_warn(make):
    model, sparsity = make_mlp(), make()
    biases = torch.optim.SGD([model[0].bias, model[2].bias], 0.1)
    weights = torch.optim.SGD([model[0].weight, model[2].weight], 0.1)
    for obj in (model, biases, weights):
        sparsity.apply(obj)
    loss_of(model, 0).backward()
    biases.step()
    weights.step()
    assert_pruned(sparsity, weights)
    assert sparsity.step == 1
