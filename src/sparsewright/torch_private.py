"""The private names of torch that the library needs, one function each.

A new torch breaks this file only. Each function has a test in `tests/test_torch_private.py`.

The dicts `_parameters`, `_buffers` and `_modules` of a module are used where they are needed: every
extension of torch reads them, and no public name gives an entry with its owner at that cost.
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

_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"  # DistributedDataParallel reads it
_MODULE_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)
# By the name of the class: to import torch's compiler takes a second.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
}
"""Classes that wrap a whole module: the name they give it."""

Given = ParamSpec("Given")
Result = TypeVar("Result")
Formulas = Mapping[Any, Callable[..., int]]
Count = Callable[[Sequence[Tensor], int], None]


def backward_pass() -> int:
    """Return the number of the backward pass that is running; -1 outside of one."""
    number: int = torch._C._current_graph_task_id()
    return number


def version(tensor: Tensor) -> int:
    """Return the number of in-place writes to a tensor."""
    return tensor._version


def accumulation_hooks(param: Tensor) -> list[Callable[..., None]]:
    """Return the hooks that are called when a Parameter's gradient has been accumulated."""
    return list((getattr(param, "_post_accumulate_grad_hooks", None) or {}).values())


def memory_id(tensor: Tensor) -> int:
    """Return a number that all views of one tensor share, also on the meta device."""
    number: int = tensor.untyped_storage()._cdata
    return number


def is_transformed(tensor: Tensor) -> bool:
    """Return whether a transform of `torch.func`, or forward-mode autograd, follows a tensor."""
    is_wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_wrapped or torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None


def is_recorded() -> bool:
    """Return whether `torch.jit.trace` or `make_fx` records torch's operations.

    A kernel of ours would not be in the record. `torch.compile` and `torch.export` are told of it
    as an operator, so for them this is False, except inside of a transform of `torch.func`, for
    which the operator has no rule.
    """
    if torch.compiler.is_compiling():
        is_transforming: bool = torch._C._are_functorch_transforms_active()
        return is_transforming
    proxies = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)
    return torch._C._get_tracing_state() is not None or proxies is not None


def not_compiled(fn: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function run as it is where `torch.compile` compiles its caller.

    Like `torch.compiler.disable`, which imports torch's compiler at once.
    """
    disabled: Callable[Given, Result] = _disable_dynamo(fn)
    return disabled


def shares_memory(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are views of the same memory; False for those without any."""
    try:
        return memory_id(tensor) == memory_id(other)
    except (NotImplementedError, RuntimeError):  # sparse tensors, and those inside of vmap
        return False


def may_overlap(tensor: Tensor) -> bool:
    """Return whether several entries of a tensor may be one place in memory, as in an expanded."""
    overlap: int = torch._debug_has_internal_overlap(tensor)
    return overlap != 0


def map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return nested tuples, lists and dicts with `fn` of each tensor in them."""
    return tree_map(lambda leaf: fn(leaf) if isinstance(leaf, Tensor) else leaf, tree)


@contextmanager
def counting_flops(formulas: Formulas, count: Count) -> Iterator[None]:
    """Call `count(tensors, flops)` for each operator in the block that has a formula.

    Args:
        formulas: `torch.utils.flop_counter.flop_registry`; its module takes 20 ms to import.
        count: is given the operator's tensor arguments and its FLOPs.
    """
    with _Counting(formulas, count):
        yield


class _Counting(TorchDispatchMode):
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


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether `Optimizer.__init__` ran, so that step hooks can be registered."""
    return "_optimizer_step_post_hooks" in vars(optimizer)


def step_pre_hooks(optimizer: Optimizer) -> OrderedDict[int, Any]:
    """Return the hooks that run before each step, in order."""
    hooks: OrderedDict[int, Any] = vars(optimizer)["_optimizer_step_pre_hooks"]
    return hooks


def has_load_hooks(optimizer: Optimizer) -> bool:
    """Return whether hooks on loading a state dict can be registered."""
    return "_optimizer_load_state_dict_post_hooks" in vars(optimizer)


def step_without_hooks(optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
    """Call the step of an optimizer, without any hook; with the closure if it takes one."""
    step: Any = type(optimizer).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    takes_it = "closure" in inspect.signature(step).parameters
    step(optimizer, closure) if takes_it else step(optimizer)


@contextmanager
def without_compilation() -> Iterator[None]:
    """Let functions that are compiled run as they were written, inside the block."""
    if "torch._dynamo" in sys.modules:  # else none was: to import it takes a second
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def is_skipped(optimizer: Optimizer) -> bool:
    """Return whether a fused step under a `GradScaler` did nothing, after an overflow."""
    found_inf: Any = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the user's hooks on another: the same dicts, so that handles stay valid."""
    for hooks in _MODULE_HOOKS:
        setattr(new, hooks, getattr(old, hooks))


def call_load_hooks(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Call the hooks that run before a module loads its part of a state dict."""
    for hook in module._load_state_dict_pre_hooks.values():
        hook(state_dict, prefix, *rest)


def wrapped_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper (compile, DDP, EMA) holds its module; else None."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def root_of_apply(fn: object, module: nn.Module) -> nn.Module:
    """Return the module on which the user called `module.apply(fn)`; `module` if called directly.

    `nn.Module.apply` visits children first and does not pass on where it was called. The outermost
    of its frames that carries `fn` knows.
    """
    root = module
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module.apply.__code__ and frame.f_locals.get("fn") is fn:
            root = frame.f_locals["self"]
        frame = frame.f_back
    return root


def hide_from_ddp(module: nn.Module, names: Sequence[str]) -> None:
    """Keep buffers out of what data parallelism sends at every forward."""
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
