"""Access to torch's private names, one function for each.

A new version of torch can break only this file. `tests/test_torch_private.py` tests each function.

Other files do read a module's dicts `_parameters`, `_buffers` and `_modules`. Every extension of
torch reads them, and the public names that find an entry with its owner are slower.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"  # read by DistributedDataParallel
_FORWARD_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
_MODULE_HOOKS = (
    *_FORWARD_HOOKS,
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)
# Keyed by class name, because importing torch's compiler takes a second.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
}
"""Wrapper classes, and the name under which each one stores its module."""

Given = ParamSpec("Given")
Result = TypeVar("Result")
Formulas = Mapping[Any, Callable[..., int]]
Count = Callable[[Sequence[Tensor], int], None]
SeeProduct = Callable[[Tensor, Tensor, Tensor | None], None]


def backward_pass() -> int:
    """Return the number of the running backward pass, or -1 if none is running."""
    number: int = torch._C._current_graph_task_id()
    return number


def version(tensor: Tensor) -> int:
    """Return the number of in-place writes to a tensor."""
    return tensor._version


def accumulation_hooks(param: Tensor) -> list[Callable[..., None]]:
    """Return the hooks that run after a Parameter's gradient is accumulated."""
    return list((getattr(param, "_post_accumulate_grad_hooks", None) or {}).values())


def memory_id(tensor: Tensor) -> int:
    """Return a number that all views of a tensor share; works on the meta device too."""
    number: int = tensor.untyped_storage()._cdata
    return number


def is_transformed(tensor: Tensor) -> bool:
    """Return whether a `torch.func` transform or forward-mode autograd tracks a tensor."""
    is_wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_wrapped or torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None


def is_recorded() -> bool:
    """Return whether `torch.jit.trace` or `make_fx` is recording torch's operations.

    Such a recording would miss our kernels. `torch.compile` and `torch.export` know our kernels as
    operators, so this returns False for them, except inside a `torch.func` transform, for which
    the operators have no rule.
    """
    if torch.compiler.is_compiling():
        is_transforming: bool = torch._C._are_functorch_transforms_active()
        return is_transforming
    proxies = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)
    return torch._C._get_tracing_state() is not None or proxies is not None


def not_compiled(fn: Callable[Given, Result]) -> Callable[Given, Result]:
    """Exclude a function from compilation when `torch.compile` compiles its caller.

    This works like `torch.compiler.disable`, but does not import torch's compiler.
    """
    disabled: Callable[Given, Result] = _disable_dynamo(fn)
    return disabled


def shares_memory(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are views of the same memory; False if one has no memory."""
    try:
        return memory_id(tensor) == memory_id(other)
    except (NotImplementedError, RuntimeError):  # no storage: sparse; inside vmap
        return False


def may_overlap(tensor: Tensor) -> bool:
    """Return whether entries of a tensor may share memory, as in an expanded tensor."""
    overlap: int = torch._debug_has_internal_overlap(tensor)
    return overlap != 0


def map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `fn` to each tensor in nested tuples, lists and dicts, and return the result."""
    return tree_map(lambda leaf: fn(leaf) if isinstance(leaf, Tensor) else leaf, tree)


@contextmanager
def counting_flops(formulas: Formulas, count: Count) -> Iterator[None]:
    """Call `count(tensors, flops)` for each operator in the block that has a formula.

    Args:
        formulas: `torch.utils.flop_counter.flop_registry`; importing its module takes 20 ms.
        count: receives the operator's tensor arguments and its FLOPs.
    """
    with _Counting(formulas, count):
        yield


class _Counting(TorchDispatchMode):
    """Count the FLOPs of each operator that has a formula."""

    def __init__(self, formulas: Formulas, count: Count) -> None:
        TorchDispatchMode.__init__(self)
        self.formulas, self.count = formulas, count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:
            with self:
                made_of_others = func.decompose(*args, **kwargs)
            if made_of_others is not NotImplemented:
                return made_of_others
        out = func(*args, **kwargs)
        if formula is not None:
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            self.count(tensors, formula(*args, **kwargs, out_val=out))
        return out


@contextmanager
def watching_products(see: SeeProduct) -> Iterator[None]:
    """Call `see(weight, x, ends)` for each matrix product `x @ weight` inside the block.

    Args:
        see: receives the second factor, `[k, n]` or `[b, k, n]`; the first factor, `[m, k]` or
            `[b, m, k]`; and for a grouped product, whose first factor is `[m, k]`, the end of
            each group of its rows.
    """
    with _Products(see):
        yield


class _Products(TorchDispatchMode):
    """Report each matrix product before it runs."""

    def __init__(self, see: SeeProduct) -> None:
        TorchDispatchMode.__init__(self)
        self.see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        if name in ("mm", "bmm"):
            self.see(args[1], args[0], None)
        elif name in ("addmm", "baddbmm"):
            self.see(args[2], args[1], None)
        elif name == "linear":
            self.see(args[1].t(), args[0].reshape(-1, args[0].shape[-1]), None)
        elif name == "_grouped_mm":
            self.see(args[1], args[0], args[2] if len(args) > 2 else kwargs.get("offs"))
        return func(*args, **kwargs)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether `Optimizer.__init__` ran, which step hooks require."""
    return "_optimizer_step_post_hooks" in vars(optimizer)


def step_pre_hooks(optimizer: Optimizer) -> OrderedDict[int, Any]:
    """Return an optimizer's hooks that run before each step, in order."""
    hooks: OrderedDict[int, Any] = vars(optimizer)["_optimizer_step_pre_hooks"]
    return hooks


def has_load_hooks(optimizer: Optimizer) -> bool:
    """Return whether an optimizer supports hooks on loading a state dict."""
    return "_optimizer_load_state_dict_post_hooks" in vars(optimizer)


def step_without_hooks(optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
    """Call an optimizer's step without its hooks; pass the closure if the step accepts one."""
    step: Any = type(optimizer).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    takes_it = "closure" in inspect.signature(step).parameters
    step(optimizer, closure) if takes_it else step(optimizer)


@contextmanager
def without_compilation() -> Iterator[None]:
    """Run compiled functions without compilation inside the block."""
    if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes a second
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def is_skipped(optimizer: Optimizer) -> bool:
    """Return whether a fused step under a `GradScaler` was skipped because of an overflow."""
    found_inf: Any = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Move the user's hooks to another module; sharing the dicts keeps the handles valid."""
    for hooks in _MODULE_HOOKS:
        setattr(new, hooks, getattr(old, hooks))


def saved_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers that its state dict contains."""
    unsaved = module._non_persistent_buffers_set
    return {name: buffer for name, buffer in module._buffers.items() if name not in unsaved}


def forward_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """Return copies of the dicts that hold a module's forward hooks."""
    return [dict(getattr(module, name)) for name in _FORWARD_HOOKS]


def restore_forward_hooks(module: nn.Module, hooks: Sequence[Mapping[int, Any]]) -> None:
    """Remove the forward hooks that a module did not have when `forward_hooks` was called."""
    for name, before in zip(_FORWARD_HOOKS, hooks, strict=True):
        own = getattr(module, name)
        for key in own.keys() - before.keys():
            del own[key]


def call_load_hooks(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Call a module's hooks that run before it loads its part of a state dict."""
    for hook in module._load_state_dict_pre_hooks.values():
        hook(state_dict, prefix, *rest)


def wrapped_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper (compile, DDP, EMA) stores its module, or None."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def root_of_apply(fn: object, module: nn.Module) -> nn.Module:
    """Return the module on which the user called `apply(fn)`; `module` if called directly.

    `nn.Module.apply` visits children first and does not tell them where it was called. The
    outermost of its frames that has `fn` knows the root.
    """
    root = module
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module.apply.__code__ and frame.f_locals.get("fn") is fn:
            root = frame.f_locals["self"]
        frame = frame.f_back
    return root


def hide_from_ddp(module: nn.Module, names: Sequence[str]) -> None:
    """Exclude buffers from what data parallelism broadcasts in every forward pass."""
    if names:
        setattr(module, _IGNORED_BY_DDP, [*getattr(module, _IGNORED_BY_DDP, []), *names])


def show_to_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Undo `hide_from_ddp`."""
    hidden = set(names)
    left = [name for name in getattr(module, _IGNORED_BY_DDP, []) if name not in hidden]
    if left:
        setattr(module, _IGNORED_BY_DDP, left)
    elif hasattr(module, _IGNORED_BY_DDP):
        delattr(module, _IGNORED_BY_DDP)
