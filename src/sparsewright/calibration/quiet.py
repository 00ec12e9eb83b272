"""A context manager that runs a model on data without changing its buffers, modes or generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from sparsewright.core.interrupts import finish
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.torch_private import forward_hooks, restore_forward_hooks, without_compilation


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and without gradients inside the block.

    After the block, training modes, forward hooks, buffers except masks, and PyTorch's random
    generators are as before. Compiled modules run without compilation.
    PyTorch's fused encoder layers are switched off, because they hide the inputs of their weights.
    """
    modes = [(module, module.training, forward_hooks(module)) for module in model.modules()]
    buffers = [
        (buffer, buffer.clone())
        for name, buffer in model.named_buffers()
        if not buffer.is_meta and not name.endswith(MASK_SUFFIX)
    ]
    was_fused = torch.backends.mha.get_fastpath_enabled()

    def restore() -> None:
        for module, mode, hooks in modes:
            module.training = mode
            restore_forward_hooks(module, hooks)  # an interruption may leave one behind
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.backends.mha.set_fastpath_enabled(was_fused)

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(without_compilation())
        stack.callback(finish, restore)
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        yield


@contextmanager
def restored_on_failure(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore` if the block raises, even if a second interruption arrives meanwhile."""
    try:
        yield
    except BaseException:
        finish(restore)
        raise
