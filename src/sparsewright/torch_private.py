"""The private names of torch that the library needs, one function each.

A new torch breaks this file only. Each function has a test in `tests/test_torch_private.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"  # DistributedDataParallel reads it
_MODULE_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


def backward_pass() -> int:
    """Return the number of the backward pass that is running; -1 outside of one."""
    number: int = torch._C._current_graph_task_id()
    return number


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is active; its tensors have no memory."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether `Optimizer.__init__` ran, so that step hooks can be registered."""
    return "_optimizer_step_post_hooks" in vars(optimizer)


def version(tensor: Tensor) -> int:
    """Return the number of in-place writes to a tensor."""
    return tensor._version


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the user's hooks on another: the same dicts, so that handles stay valid."""
    for hooks in _MODULE_HOOKS:
        setattr(new, hooks, getattr(old, hooks))


def call_load_hooks(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Call the hooks that run before a module loads its part of a state dict."""
    for hook in module._load_state_dict_pre_hooks.values():
        hook(state_dict, prefix, *rest)


def hide_from_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Keep buffers out of what data parallelism sends at every forward."""
    setattr(module, _IGNORED_BY_DDP, [*getattr(module, _IGNORED_BY_DDP, []), *names])


def show_to_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Undo `hide_from_ddp`."""
    hidden = set(names)
    left = [name for name in getattr(module, _IGNORED_BY_DDP, []) if name not in hidden]
    if left:
        setattr(module, _IGNORED_BY_DDP, left)
    elif hasattr(module, _IGNORED_BY_DDP):
        delattr(module, _IGNORED_BY_DDP)
