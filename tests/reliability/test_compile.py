"""`torch.compile` gives eager masks and losses, one graph, and no recompilation at updates."""

from functools import cache, partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import sparsewright as sparse
from helpers.cases import ALGORITHMS, OPTIMIZERS, every_algorithm
from helpers.support import TORCH, assert_pruned, assert_same, batch, masks_of, train

STEPS = 6
DYNAMO = torch._dynamo.config

# torch's compiler triggers these warnings itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Net(nn.Sequential):
    """Two layers with the names that the contract algorithms use.

    It overrides `forward` because torch does not trace the forward of its own containers, so
    `nn.Sequential().compile()` compiles nothing.
    """

    def __init__(self, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


def no_compiler(model, backend):
    return model


def wrapped(model, backend):
    return torch.compile(model, backend=backend, fullgraph=True)


def in_place(model, backend):
    model.compile(backend=backend, fullgraph=True)
    return model


def with_breaks_allowed(model, backend):
    return torch.compile(model, backend=backend)


def by_layer(model, backend):
    for index, layer in enumerate(model):
        model[index] = torch.compile(layer, backend=backend, fullgraph=True)
    return model


def run(make, compile_with, backend="aot_eager", is_first=True, storage="masked", seed=0):
    """Train and return the losses, the masks and the number of compilations after each step."""
    counter, model = CompileCounterWithBackend(backend), Net(seed)
    sparsity = make()
    for algorithm in getattr(sparsity, "algorithms", [sparsity]):
        algorithm.storage = storage
    forward = compile_with(model, counter) if is_first else model
    sparsity.apply(forward)
    forward = forward if is_first else compile_with(model, counter)
    optimizer = OPTIMIZERS["sgd with momentum"](forward.parameters())
    sparsity.apply(optimizer)
    losses, compiled = [], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        for micro in range(2):
            first, second = forward(batch(4 * step + micro, 5, 8)), forward(batch(-step, 5, 8))
            loss = (first - second / 2).pow(2).mean()
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(forward.parameters(), 0.5)
        optimizer.step()
        if storage == "masked":
            assert_pruned(sparsity, optimizer)
        compiled.append(counter.frame_count)
    assert not counters["graph_break"]
    assert sparsity.step == STEPS
    return torch.stack(losses), masks_of(sparsity), compiled


@cache
def eager_run(make, storage, seed):
    return run(make, no_compiler, storage=storage, seed=seed)


def assert_like_eager(make, compiled, storage="masked"):
    """Check for eager masks and names, and for losses closer to eager than another seed's."""
    eager = eager_run(make, storage, 0)
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-5, atol=1e-7)
    assert_same(compiled[1], eager[1])
    wrong = eager_run(make, storage, 1)[0]
    assert not torch.allclose(wrong, eager[0], rtol=1e-2)


@pytest.mark.parametrize("is_first", [True, False], ids=["compiled, applied", "applied, compiled"])
@pytest.mark.parametrize("compile_with", [wrapped, in_place])
@every_algorithm
def test_masked(make, compile_with, is_first):
    with DYNAMO.patch(error_on_recompile=True):
        compiled = run(make, compile_with, is_first=is_first)
    assert compiled[2] == [1] * STEPS
    assert_like_eager(make, compiled)


@pytest.mark.parametrize("compile_with", [with_breaks_allowed, by_layer])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_other_ways_to_compile(compile_with, storage):
    """Compiling with graph breaks, or layer by layer, never recompiles after the first step."""
    make = ALGORITHMS["rigl in groups"]
    compiled = run(make, compile_with, storage=storage)
    assert compiled[2] == [compiled[2][0]] * STEPS
    assert_like_eager(make, compiled, storage)


@every_algorithm
def test_compressed(make):
    """If the number of live connections changes, layers are compiled once more; otherwise never."""
    with DYNAMO.patch(force_parameter_static_shapes=False):
        compiled = run(make, wrapped, storage="compressed")
    changes = make in [ALGORITHMS[name] for name in ("gmp", "rigl", "user-defined")]
    assert max(compiled[2]) == 1 + changes
    assert_like_eager(make, compiled, "compressed")


def test_compressed_parameters_are_static_to_torch_by_default():
    """Each new number of connections is compiled; up to torch 2.11, the second serves all later."""
    compiled = run(ALGORITHMS["gmp"], in_place, storage="compressed")
    assert compiled[2] == ([1, 1, 2, 2, 3, 3] if TORCH >= (2, 12) else [1, 1, 2, 2, 2, 2])
    assert_like_eager(ALGORITHMS["gmp"], compiled, "compressed")


# torch 2.6 warns about its own settings.
@pytest.mark.filterwarnings("ignore:Skipping serialization of")
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_inductor(storage):
    """Inductor reuses its buffers, so dense gradients must not share memory with them."""
    make = ALGORITHMS["rigl in groups"]
    compiled = run(make, wrapped, "inductor", storage=storage)
    assert compiled[2] == [1] * STEPS
    assert_like_eager(make, compiled, storage)


@every_algorithm
def test_compiled_optimizer_steps(make):
    """Compiled steps are bit-equal to eager steps if they are for dense models (torch >= 2.12)."""
    compiled, eager = optimizer_run(make, is_compiled=True), optimizer_run(make, is_compiled=False)
    assert_same(compiled[1], eager[1])
    if is_bit_equal_without_sparsity():
        assert_same(compiled[0], eager[0])
    else:
        assert TORCH < (2, 12)
        torch.testing.assert_close(compiled[0], eager[0], rtol=1e-5, atol=1e-7)


@cache
def is_bit_equal_without_sparsity():
    empty = partial(sparse.Static, 0.0)
    weights = [optimizer_run(empty, is_compiled)[0] for is_compiled in (True, False)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def optimizer_run(make, is_compiled):
    model, sparsity = Net(), make()
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    counter = CompileCounterWithBackend("aot_eager")
    step_of = torch.compile(lambda: optimizer.step(), backend=counter) if is_compiled else None
    frames = []
    for step in range(STEPS):
        optimizer.zero_grad()
        model(batch(step, 5, 8)).pow(2).mean().backward()
        (step_of or optimizer.step)()
        assert_pruned(sparsity, optimizer)
        frames.append(counter.frame_count)
    assert sparsity.step == STEPS
    assert not is_compiled or frames[-1] == frames[1] > 0
    return dict(model.state_dict()), masks_of(sparsity)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_compiled_autograd(storage):
    make = ALGORITHMS["rigl in groups"]
    with DYNAMO.patch(compiled_autograd=storage == "masked"):
        compiled = run(make, wrapped, storage=storage)
    assert_like_eager(make, compiled, storage)


def test_a_compiled_layer_alone_stays_masked():
    """A compiled module keeps calling the original layer, so that layer cannot be replaced."""
    layer = torch.compile(nn.Linear(8, 4), backend="eager")
    sparsity = sparse.Static(0.5)
    sparsity.apply(layer)
    (conversion,) = sparse.compress(layer, verbose=False)
    assert conversion.name == "weight"
    assert conversion.reason.startswith("the model is this layer itself; to replace it, put it in")
    with torch.no_grad():
        layer.weight.fill_(0.5)
    assert torch.equal(layer(torch.ones(1, 8)), layer.bias + torch.full((1, 4), 4.0))


def test_a_model_compiled_and_trained_before_it_is_sparsified():
    model = Net()
    compiled = wrapped(model, "aot_eager")
    train(compiled, torch.optim.SGD(compiled.parameters(), 0.1), 2)
    sparsity = sparse.SET(sparsity=0.5, update=1)
    sparsity.apply(compiled)
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    sparsity.apply(optimizer)
    with DYNAMO.patch(error_on_recompile=True):
        train(compiled, optimizer, 4)
    assert_pruned(sparsity, optimizer)
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    x = batch(0, 5, 8)
    torch.testing.assert_close(compiled(x), model(x))
