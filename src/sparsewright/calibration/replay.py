"""A walk over the blocks of a model, which runs each one on the outputs of pruned earlier ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsewright.calibration.blocks import Block
from sparsewright.calibration.calls import Arguments, Call, find_sources, map_leaves, record
from sparsewright.errors import CalibrationError, OptionTypeError, SparsewrightError

Batch = TypeVar("Batch")

_MASK = "attention_mask"
_FORWARD = "Pass forward=, a function (model, batch) that runs the model on a batch."


class _Reached(BaseException):
    """Raised to end a forward pass at a block; no `except Exception` of a model catches it."""


class Step(NamedTuple):
    """A block and the way to run it.

    Attributes:
        block: the block.
        sources: sources of its arguments, if it continues the chain of the block before it.
        is_whole: whether only passes over the whole model run it, because the model calls it
            several times or not as a module.
    """

    block: Block
    sources: Arguments | None
    is_whole: bool


class Replay:
    """Run a model, or blocks of it, on calibration data.

    Args:
        model: the model.
        batches: the data, at least one batch.
        forward: `forward(model, batch)` runs the model.

    Attributes:
        padding: mask of the batch that is running, 0 for padding; None if there is no padding.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Batch], forward: Callable[[nn.Module, Batch], Any]
    ) -> None:
        self._model, self._batches, self._forward = model, batches, forward
        self.padding: Tensor | None = None

    def run(self) -> None:
        """Run the whole model on all batches."""
        for batch in self._batches:
            self._pass(batch)

    def walk(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Callable[[], None]]]:
        """Yield each block in order of execution, with a function that runs it on all batches.

        The inputs of a block are those that the model computes with the weights that it has when
        the block is yielded. They are kept on the CPU.
        """
        steps = self._plan(blocks)
        calls: list[Call] = []
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if step.is_whole:
                yield step.block, self.run
                continue
            if step.sources is None:
                calls = [self._call_of(step.block, batch) for batch in self._batches]
            yield step.block, partial(self._repeat, step.block.module, calls)
            if following is not None and following.sources is not None:
                module, sources = step.block.module, following.sources
                for index, call in enumerate(calls):
                    calls[index] = call.advance(module, sources)

    def _repeat(self, module: nn.Module, calls: Sequence[Call]) -> None:
        """Repeat the calls of a block."""
        for call in calls:
            self.padding = call.padding
            call.repeat(module)

    def _pass(self, batch: Any) -> None:
        """Run the whole model on a batch."""
        mask = batch.get(_MASK) if isinstance(batch, Mapping) else None
        self.padding = _as_padding(mask)
        with self._following_padding():
            self._forward(self._model, batch)

    @contextmanager
    def _following_padding(self) -> Iterator[None]:
        """Note the mask that the model receives, under its name or in its place."""
        signature = inspect.signature(self._model.forward)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            try:
                given = signature.bind(*args, **kwargs).arguments | kwargs
            except TypeError:  # the forward pass raises the same error
                return
            if given.get(_MASK) is not None:
                self.padding = _as_padding(given[_MASK])

        handle = self._model.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _call_of(self, block: Block, batch: Any) -> Call:
        """Return the call of a block in a pass over the model, which ends there.

        Raises:
            CalibrationError: the model does not call the block for this batch.
        """
        found: list[Call] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(record(args, kwargs, self.padding))
            raise _Reached

        handle = _hook_first(block.module, before)
        try:
            self._pass(batch)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise CalibrationError(
            block.name, "the model calls it for the first batch, but not for every batch"
        )

    def _plan(self, blocks: Sequence[Block]) -> list[Step]:
        """Run the first batch, and return the blocks in order of execution.

        Blocks that the model does not call come last.
        """
        trace = _Trace()
        with ExitStack() as stack:
            for block in blocks:
                for handle in (
                    _hook_first(block.module, trace.before(block)),
                    block.module.register_forward_hook(trace.after),
                ):
                    stack.callback(handle.remove)
            self._pass(self._batches[0])
        steps: list[Step] = []
        for block, sources, _ in trace.steps:
            is_chained = bool(steps) and not steps[-1].is_whole
            is_whole = trace.counts[block] > 1
            steps.append(Step(block, sources if is_chained else None, is_whole))
        return steps + [Step(block, None, True) for block in blocks if block not in trace.counts]


def _hook_first(module: nn.Module, hook: Callable[..., None]) -> RemovableHandle:
    """Add a hook that runs before the user's hooks, which run again when a call is repeated."""
    return module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)


class _Trace:
    """Record the order of blocks and the sources of their arguments in one forward pass."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.counts: dict[Block, int] = {}
        self._first: Arguments | None = None
        self._output: Any = None

    def before(self, block: Block) -> Callable[..., None]:
        """Return the hook that runs before a block."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.counts[block] = self.counts.get(block, 0) + 1
            if self.counts[block] > 1:
                self._first = None
                return
            # Rebuild lists and dicts, because a block may add to them.
            given, sources = map_leaves(lambda leaf: leaf, Arguments(args, kwargs)), None
            if self._first is not None:
                sources = find_sources(given, self._first, self._output)
            if sources is None:
                self._first = given
            self.steps.append(Step(block, sources, False))

        return hook

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """Keep the output of a block until the next one runs."""
        self._output = output


def _as_padding(mask: object) -> Tensor | None:
    """Return a mask `[batch, tokens]`, or None for anything else."""
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def forward_by_default(model: nn.Module, batch: object) -> object:
    """Run a model on a batch: a tensor, positional arguments or keyword arguments.

    Tensors are moved to the device of the model's first parameter. If the model has an argument
    `use_cache`, it is False by default, because a cache of all batches takes much memory.

    Raises:
        OptionTypeError: the batch has another type.
        CalibrationError: the model cannot run the batch.
    """
    device = next(model.parameters()).device

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Tensor):
        args = (moved(batch),)
    elif isinstance(batch, Mapping):
        kwargs = {name: moved(value) for name, value in batch.items()}
    elif isinstance(batch, tuple | list):
        args = tuple(map(moved, batch))
    else:
        allowed = "a tensor, a tuple or list of arguments, or a mapping of keyword arguments"
        raise OptionTypeError("a batch", batch, allowed, _FORWARD)
    if "use_cache" in inspect.signature(model.forward).parameters:
        kwargs.setdefault("use_cache", False)
    try:
        return model(*args, **kwargs)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError | SparsewrightError):
            raise
        problem = f"the model cannot run a batch ({type(error).__name__}: {error})"
        raise CalibrationError("batches", f"{problem}. {_FORWARD}") from error
