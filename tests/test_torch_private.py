"""The private names of torch that the library uses, with one test for each function."""

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import flop_registry

import sparsewright
from sparsewright import torch_private

ROOT = Path(sparsewright.__file__).parent
IN_PLACE = {"_parameters", "_buffers", "_modules"}  # every extension of torch reads them
OVERRIDDEN = {"_load_from_state_dict", "_save_to_state_dict"}  # nn.Module's own extension points


@pytest.fixture
def process_group():
    """Create a process group with one process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_backward_pass():
    seen = []
    for _ in range(2):
        x = torch.ones(2, requires_grad=True)
        a, b = 2 * x, 3 * x
        for tensor in (a, b):
            tensor.register_hook(lambda grad: seen.append(torch_private.backward_pass()))
        (a + b).sum().backward()
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert torch_private.backward_pass() == -1 not in seen


def test_version():
    tensor, other = torch.zeros(2, 3), torch.zeros(2, 3)
    counts = [torch_private.version(tensor)]
    for write in (lambda: tensor.add_(1), lambda: tensor[0].zero_(), lambda: tensor.copy_(other)):
        write()
        counts.append(torch_private.version(tensor))
    assert counts == sorted(set(counts))
    tensor.sum()
    assert torch_private.version(tensor) == counts[-1]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_is_transformed():
    tensor, seen = torch.ones(2), []

    def note(x):
        seen.append((torch_private.is_transformed(x), torch_private.is_transformed(tensor)))
        return x.sum()

    torch.func.vmap(note)(torch.ones(3, 2))
    torch.func.grad(note)(tensor.clone())
    torch.func.jvp(note, (tensor.clone(),), (tensor,))
    with torch.autograd.forward_ad.dual_level():
        note(torch.autograd.forward_ad.make_dual(tensor.clone(), tensor))
    assert seen == 4 * [(True, False)]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_is_recorded():
    seen = []

    def note(x):
        seen.append(torch_private.is_recorded())
        return x + 1

    x = torch.ones(2)
    note(x)
    torch.jit.trace(note, x, check_trace=False)
    make_fx(note)(x)
    torch.compile(note, backend="eager")(x)
    assert seen == [False, True, True, False]

    def chosen(x):
        return 2 * x if torch_private.is_recorded() else 3 * x

    compiled = torch.compile(chosen, backend="eager", fullgraph=True)
    transformed = torch.compile(torch.func.vmap(chosen), backend="eager", fullgraph=True)
    assert compiled(x).tolist() == [3, 3]
    assert transformed(x).tolist() == [2, 2]
    assert not torch_private.is_recorded()


def test_not_compiled():
    seen = []

    @torch_private.not_compiled
    def note(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1

    assert torch.compile(lambda x: note(2 * x), backend="eager")(torch.ones(2)).tolist() == [3, 3]
    assert seen == [False]


def test_shares_memory():
    tensor = torch.ones(2, 3)
    assert torch_private.shares_memory(tensor.T[1], tensor)
    assert torch_private.shares_memory(tensor.data, tensor)
    assert not torch_private.shares_memory(tensor.clone(), tensor)
    assert not torch_private.shares_memory(tensor.to_sparse(), tensor)
    batched = torch.func.vmap(lambda x: torch.tensor(torch_private.shares_memory(x, tensor)))
    assert not batched(tensor).any()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_id(device):
    tensor, other = (torch.empty(2, 3, device=device) for _ in range(2))
    for view in (tensor.T, tensor[1:], tensor.detach(), tensor.view(6)):
        assert torch_private.memory_id(view) == torch_private.memory_id(tensor)
    assert torch_private.memory_id(other) != torch_private.memory_id(tensor)
    assert torch_private.memory_id(tensor.clone()) != torch_private.memory_id(tensor)


def test_map_tensors():
    tree = {"x": torch.ones(2), "rest": [torch.ones(1), ("text", 3, None)]}
    mapped = torch_private.map_tensors(lambda tensor: tensor + 1, tree)
    assert mapped["rest"][1] == ("text", 3, None)
    assert mapped["x"].tolist() == [2, 2]
    assert mapped["rest"][0].tolist() == [2]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counting_flops(device):
    """Each term counts 2 operations, and the weight is among the tensors for each layer type."""
    counted = []
    linear, conv = nn.Linear(3, 5, device=device), nn.Conv2d(2, 4, 3, device=device)
    with torch_private.counting_flops(
        flop_registry, lambda tensors, flops: counted.append((tensors, flops))
    ):
        linear(torch.zeros(7, 3, device=device)).relu()
        conv(torch.zeros(1, 2, 8, 8, device=device))
    assert [flops for _, flops in counted] == [2 * (7 * 3 * 5), 2 * (36 * 4 * 2 * 9)]
    for layer, (tensors, _) in zip((linear, conv), counted, strict=True):
        ids = {torch_private.memory_id(tensor) for tensor in tensors}
        assert torch_private.memory_id(layer.weight) in ids


def test_counting_flops_of_attention():
    q, counted = torch.zeros(1, 2, 7, 6, device="meta"), []
    with torch_private.counting_flops(flop_registry, lambda _, flops: counted.append(flops)):
        nn.functional.scaled_dot_product_attention(q, q, q)
    assert sum(counted) == 2 * (2 * 2 * 7 * 7 * 6)


def test_has_step_hooks():
    class Bare(torch.optim.Optimizer):
        def __init__(self):
            self.param_groups = []

    assert torch_private.has_step_hooks(torch.optim.SGD(nn.Linear(2, 2).parameters()))
    assert not torch_private.has_step_hooks(Bare())


@pytest.mark.parametrize("factor", [1.0, math.inf], ids=["finite", "overflow"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_is_skipped(make, factor):
    """A fused optimizer runs its hooks after an overflow too, and they can detect the overflow."""
    param, seen = nn.Parameter(torch.ones(3)), []
    optimizer, scaler = make([param], lr=0.1, fused=True), torch.amp.GradScaler("cpu", 4.0)
    optimizer.register_step_post_hook(lambda *_: seen.append(torch_private.is_skipped(optimizer)))
    scaler.scale(param.sum() * factor).backward()
    scaler.step(optimizer)
    assert seen == [math.isinf(factor)]
    assert torch.equal(param, torch.ones(3)) == math.isinf(factor)
    scaler.update()
    param.grad = torch.ones(3)
    optimizer.step()
    assert seen[1:] == [False]


def test_forward_hooks():
    module, called = nn.Linear(2, 2), []
    module.register_forward_hook(lambda *args: called.append("mine"))
    before = torch_private.forward_hooks(module)
    module.register_forward_hook(lambda *args, **kwargs: called.append("kwargs"), with_kwargs=True)
    module.register_forward_hook(lambda *args: called.append("always"), always_call=True)
    module.register_forward_pre_hook(lambda *args: called.append("pre"))
    module.register_forward_pre_hook(lambda *args: called.append("kwargs"), with_kwargs=True)
    torch_private.restore_forward_hooks(module, before)
    module(torch.ones(1, 2))
    assert called == ["mine"]
    assert torch_private.forward_hooks(module) == before


@pytest.mark.parametrize("grad", [False, True])
def test_watching_products(grad):
    """Each way to multiply with a weight shows the weight, its first factor and the groups."""
    weight, stack = torch.randn(4, 3), torch.randn(2, 3, 4)
    x, seen = torch.randn(5, 3), []
    with (
        torch.set_grad_enabled(grad),
        torch_private.watching_products(lambda *own: seen.append(own)),
    ):
        x @ weight.t()
        torch.nn.functional.linear(x, weight, torch.zeros(4))
        torch.nn.functional.linear(x.reshape(1, 5, 3), weight)
        torch.addmm(torch.zeros(4), x, weight.t())
        torch.bmm(torch.randn(2, 5, 3), stack)
        x.relu()
    assert len(seen) == 5
    for other, first, ends in seen:
        shared = weight if other.ndim == 2 else stack
        assert torch_private.shares_memory(other, shared)
        assert first.shape[-1] == 3
        assert ends is None
    assert [tuple(other.shape) for other, _, _ in seen] == [(3, 4)] * 4 + [(2, 3, 4)]


def test_watching_grouped_products():
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    stack, ends = torch.randn(2, 16, 16).bfloat16(), torch.tensor([8, 16], dtype=torch.int32)
    x, seen = torch.randn(16, 16).bfloat16(), []
    with torch_private.watching_products(lambda *own: seen.append(own)):
        torch._grouped_mm(x, stack.transpose(1, 2), offs=ends)
    ((other, first, found),) = seen
    assert torch_private.shares_memory(other, stack)
    assert torch.equal(first, x)
    assert torch.equal(found, ends)


def test_move_hooks():
    old, new, calls = nn.Linear(2, 2), nn.Linear(2, 2), []
    handles = [
        old.register_forward_hook(lambda *_: calls.append("forward")),
        old.register_forward_hook(lambda *_, **__: calls.append("kwargs"), with_kwargs=True),
        old.register_forward_hook(lambda *_: calls.append("always"), always_call=True),
        old.register_forward_pre_hook(lambda *_: calls.append("pre")),
        old.register_forward_pre_hook(lambda *_: calls.append("pre kwargs"), with_kwargs=True),
        old.register_full_backward_hook(lambda *_: calls.append("backward")),
        old.register_full_backward_pre_hook(lambda *_: calls.append("backward pre")),
    ]
    old(torch.ones(1, 2, requires_grad=True)).sum().backward()
    expected = list(calls)
    assert len(expected) == len(handles)
    calls.clear()
    torch_private.move_hooks(old, new)
    new(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert calls == expected
    calls.clear()
    for handle in handles:
        handle.remove()
    new(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert calls == []


def test_call_load_hooks():
    """The function calls the same hooks with the same arguments as torch does."""
    linear, seen = nn.Linear(2, 2), []
    linear.register_load_state_dict_pre_hook(lambda *args: seen.append(args))
    linear.load_state_dict(linear.state_dict())
    ((module, _, prefix, *rest),) = seen
    assert module is linear
    torch_private.call_load_hooks(linear, {"a": 1}, prefix, *rest)
    assert seen[1:] == [(linear, {"a": 1}, prefix, *rest)]


@pytest.mark.usefixtures("process_group")
def test_wrapped_name():
    inner = nn.Linear(2, 2)
    wrappers = [
        torch.compile(inner, backend="eager"),
        DistributedDataParallel(inner),
        DataParallel(inner),
        checkpoint_wrapper(inner),
    ]
    for wrapper in wrappers:
        name = torch_private.wrapped_name(wrapper)
        assert wrapper.get_submodule(name) is inner
        assert [child for child, _ in wrapper.named_children()] == [name]
    average = AveragedModel(inner)
    assert type(average.get_submodule(torch_private.wrapped_name(average))) is nn.Linear
    assert torch_private.wrapped_name(inner) is None
    assert torch_private.wrapped_name(nn.ModuleDict({"module": inner})) is None


def test_root_of_apply():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    roots = []

    def visit(module):
        roots.append(torch_private.root_of_apply(visit, module))

    model.apply(visit)
    assert len(roots) == 4
    assert all(root is model for root in roots)
    roots.clear()
    model.apply(lambda module: visit(module) if module is model[0] else None)
    visit(model[1])
    assert [root is module for root, module in zip(roots, model, strict=True)] == [True, True]


@pytest.mark.usefixtures("process_group")
def test_hide_from_ddp_and_show_to_ddp():
    """The wrapper itself lists the buffers that it broadcasts."""

    def sent(model):
        return [id(buffer) for buffer in DistributedDataParallel(model).modules_buffers]

    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].register_buffer("weight_mask", torch.ones(2, 2, dtype=torch.bool))
    before = sent(model)
    assert id(model[1].weight_mask) in before
    torch_private.hide_from_ddp(model, ["1.weight_mask"])
    assert sent(model) == [one for one in before if one != id(model[1].weight_mask)]
    torch_private.hide_from_ddp(model, ["0.running_mean"])
    torch_private.show_to_ddp(model, ["1.weight_mask"])
    assert sent(model) == [one for one in before if one != id(model[0].running_mean)]
    torch_private.show_to_ddp(model, ["0.running_mean"])
    assert sent(model) == before
    assert vars(model).keys() == vars(nn.Sequential()).keys()


FILES = [path for path in sorted(ROOT.rglob("*.py")) if not path.stem.endswith("_private")]


def private_names(node):
    """Yield the private names that a syntax node reads from another library."""
    names = []
    if isinstance(node, ast.Attribute):
        names = [node.attr]
    elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in OWN_OR_TYPES:
        names = [*node.module.split("."), *(alias.name for alias in node.names)]
    return {name for name in names if is_private(name)} - OWN_NAMES


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names():
    """Return every name that a file of the library defines."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.id if isinstance(node, ast.Name) else node.attr


OWN_OR_TYPES = {"sparsewright", "_typeshed"}
OWN_NAMES = set(own_names()) - OVERRIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_uses_private_names_of_another_library(path):
    tree = ast.parse(path.read_text())
    assert set().union(*map(private_names, ast.walk(tree))) <= IN_PLACE


def test_saved_buffers():
    module = nn.BatchNorm1d(2)
    module.register_buffer("unsaved", torch.ones(2), persistent=False)
    own = {"running_mean", "running_var", "num_batches_tracked"}
    assert set(torch_private.saved_buffers(module)) == own
    assert own == set(module.state_dict()) - set(dict(module.named_parameters()))


def test_accumulation_hooks():
    param = nn.Parameter(torch.ones(2))
    assert torch_private.accumulation_hooks(param) == []
    handle = param.register_post_accumulate_grad_hook(print)
    assert torch_private.accumulation_hooks(param) == [print]
    handle.remove()
    assert torch_private.accumulation_hooks(param) == []
    assert torch_private.accumulation_hooks(torch.ones(2)) == []


def test_step_without_hooks():
    called = []
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 1.0)
    optimizer.register_step_pre_hook(lambda *args: called.append("own"))
    handle = register_optimizer_step_pre_hook(lambda *args: called.append("global"))

    def closure():
        weight.grad = torch.ones(2)
        return weight.sum()

    torch_private.step_without_hooks(optimizer, closure)
    handle.remove()
    assert torch.equal(weight, torch.zeros(2))
    assert called == []


def test_has_load_hooks():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 1.0)
    assert torch_private.has_load_hooks(optimizer)
    bare = object.__new__(torch.optim.SGD)
    assert not torch_private.has_load_hooks(bare)


def test_without_compilation():
    ran = []

    @torch.compile(backend=lambda graph, inputs: ran.append("compiled") or graph.forward)
    def double(x):
        return 2 * x

    with torch_private.without_compilation():
        assert double(torch.ones(())) == 2
    assert ran == []
    double(torch.ones(()))
    assert ran == ["compiled"]


def test_may_overlap():
    dense = torch.ones(3, 4)
    assert not torch_private.may_overlap(dense)
    assert not torch_private.may_overlap(dense.T)
    assert not torch_private.may_overlap(dense[1:])
    assert torch_private.may_overlap(torch.ones(1).expand(3, 4))
    assert torch_private.may_overlap(torch.ones(6).as_strided((3, 4), (1, 1)))
