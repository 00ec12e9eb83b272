"""What an optimizer's state is, found out on toy weights.

A toy is a weight of a few entries with a mask, stepped by a new optimizer of the same class and
options, with gradients of its own. Nothing of the user's is read or written, the global random
generators least of all.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.torch_private import step_without_hooks, without_compilation

Path = tuple[Any, ...]
"""The keys that lead to a tensor in the state of a weight; those in one list share a path."""

Transform = Callable[[Tensor], Tensor]

_PLAIN = (Tensor, bool, int, float, str, type(None))
_STEPS = 12  # SOAP turns its basis at every tenth
_LONGEST_WAIT = 62
_RATE = 0.05  # what depends on the weight shows; a schedule may begin at 0


class ProbeError(Exception):
    """A toy cannot be made or stepped; the text says why."""


@dataclass(frozen=True)
class StateKinds:
    """Which tensors in the state of a weight have one entry for each of its connections.

    Attributes:
        entries: paths of those that have: the mask applies to them.
        others: paths of those that have not: factors, rotated moments, rows and columns.
        keeps_zero: whether the entries of pruned connections stay 0 by themselves.
        why_not_known: why nothing was found out; "" if it was.
        is_declared: whether the optimizer names its entries itself, by their first keys.
    """

    entries: frozenset[Path] = frozenset()
    others: frozenset[Path] = frozenset()
    keeps_zero: bool = False
    why_not_known: str = ""
    is_declared: bool = False

    @property
    def must_be_pruned(self) -> bool:
        """Whether entries of pruned connections may not be 0 after a step."""
        return not self.keeps_zero and not self.why_not_known

    def is_entry(self, path: Path) -> bool | None:
        """Return whether a tensor has one entry for each connection; None: not known."""
        if self.is_declared:
            return path[:1] in self.entries
        return None if path not in self.entries | self.others else path in self.entries


@dataclass(frozen=True)
class Outcome:
    """What a toy is after its steps.

    Attributes:
        moved: what was added to the weight.
        state: its tensors with more than one entry, by path.
        objects: paths of what is neither plain data nor a tensor that can be read.
    """

    moved: Tensor
    state: dict[Path, list[Tensor]]
    objects: set[Path]


def leaves_by_path(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield what is in a state, in its dicts and lists too, with its path."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from leaves_by_path(value, (*path, key))
    elif isinstance(state, list | tuple | deque):
        for value in state:
            yield from leaves_by_path(value, path)
    else:
        yield path, state


def tensors_by_path(state: Any) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors in a state with their paths, in dicts and lists too."""
    for path, leaf in leaves_by_path(state):
        if isinstance(leaf, Tensor):
            yield path, leaf


def read(tensor: Tensor) -> Tensor | None:
    """Return a tensor, a quantized one as its numbers; None if it is of a type without any."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    try:
        dense: Tensor = tensor.dequantize()
    except Exception:  # whatever a stranger's operator raises
        return None
    return dense if type(dense) is Tensor else None


class Toy:
    """Toys for the weights of one number of dimensions in one group of an optimizer.

    Args:
        optimizer: the user's; it is not stepped.
        group: one of its parameter groups.
        param: a weight of that group; its type and device count.
        ndim: dimensions of the toys.
    """

    def __init__(
        self, optimizer: Optimizer, group: Mapping[str, Any], param: Tensor, ndim: int
    ) -> None:
        self._class, self._device, self._dtype = type(optimizer), param.device, param.dtype
        if param.is_meta:
            self._device = torch.device("cpu")
        self._group = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        self._options = _options(optimizer, self._group)
        for options in (self._group, self._options):
            rate = options.get("lr")
            if isinstance(rate, Tensor):
                options["lr"] = torch.full_like(rate, _RATE)
            elif isinstance(rate, float | int):
                options["lr"] = _RATE
        sides = (8, 8) if ndim == 2 else (6, 6, *[3] * (ndim - 2))
        self.shape = torch.Size(sides if ndim > 1 else (24,))
        steps = max(_STEPS, 2 + max(_waits(self._group), default=0))
        self._steps = max(2, steps // self._group.get("max_iter", 1))  # LBFGS: 20 in each step
        self._orders = [
            torch.randperm(n, generator=_numbers(dim)) for dim, n in enumerate(self.shape[:2], 9)
        ]
        self.mask = self._draw(_numbers(0)).real < 0

    def _draw(self, generator: torch.Generator) -> Tensor:
        dtype = self._dtype if self._dtype.is_complex else torch.float32
        drawn = torch.randn(self.shape, generator=generator, dtype=dtype, device="cpu")
        return drawn.to(self._device, self._dtype)

    def shuffled(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the toy's shape with its rows and its columns in another order."""
        for dim, order in enumerate(self._orders):
            tensor = tensor.index_select(dim, order.to(tensor.device))
        return tensor

    def steps(
        self,
        seed: int,
        transform: Transform = lambda tensor: tensor,
        pruned: frozenset[Path] = frozenset(),
    ) -> Outcome:
        """Return what becomes of a weight whose own entries and gradients are masked.

        Args:
            seed: decides the gradients.
            transform: of the weight, the gradients and the mask.
            pruned: paths of state tensors that are masked after each step.

        Raises:
            ProbeError: the optimizer cannot be made, or cannot step it.
        """
        device = [self._device] if self._device.type == "cuda" else []
        with (
            one_thread(),
            without_compilation(),
            torch.random.fork_rng(devices=device),
            torch.inference_mode(False),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                return self._stepped(seed, transform, pruned)
            except Exception as error:  # whatever a stranger's optimizer raises
                first = next(iter(str(error).splitlines()), "")
                raise ProbeError(f"{type(error).__name__}: {first}") from error

    def _stepped(self, seed: int, transform: Transform, pruned: frozenset[Path]) -> Outcome:
        mask = transform(self.mask)
        start = transform(self._draw(_numbers(1))) * mask
        param = nn.Parameter(start.clone())
        optimizer: Any = self._class([{**self._group, "params": [param]}], **self._options)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # Schedule-Free
        generator = _numbers(seed)
        for _ in range(self._steps):
            drawn = transform(self._draw(generator)) * mask

            def closure(drawn: Tensor = drawn) -> Tensor:
                with torch.enable_grad():  # the gradient can be differentiated: AdaHessian does
                    param.grad = drawn + param
                return (param * drawn).sum().detach()

            closure()
            step_without_hooks(optimizer, closure)
            with torch.no_grad():
                param.mul_(mask)
                for path, tensor in tensors_by_path(optimizer.state[param]):
                    if path in pruned:
                        tensor.mul_(mask)
        state: dict[Path, list[Tensor]] = {}
        objects = set()
        for path, leaf in leaves_by_path(optimizer.state[param]):
            if isinstance(leaf, Tensor) and leaf.numel() > 1:
                values = read(leaf.detach())
                if values is None:
                    objects.add(path)
                else:
                    state.setdefault(path, []).append(values)
            elif not isinstance(leaf, _PLAIN):
                objects.add(path)
        return Outcome(param.detach() - start, state, objects)


def probe(toy: Toy) -> StateKinds:
    """Return what the state of a toy is.

    A tensor has one entry for each connection if it has the weight's shape and either its entries
    off the mask do not depend on what the kept connections do; or they move along when rows and
    columns change places, and pruning them changes nothing for the kept connections.

    Raises:
        ProbeError: the toy cannot be made or stepped.
    """
    first, second = toy.steps(2), toy.steps(3)
    off = ~toy.mask
    shaped = {
        path
        for path, tensors in first.state.items()
        if all(t.shape == toy.shape and is_number(t) for t in tensors)
    }
    entries = {p for p in shaped if _are_equal(first.state[p], second.state.get(p, []), off)}
    leaky = shaped - entries
    if leaky:
        moved = toy.steps(2, toy.shuffled).state
        leaky = {p for p in leaky if _move_along(first.state[p], moved.get(p, []), toy.shuffled)}
    if leaky and is_close(toy.steps(2, pruned=frozenset(leaky)).moved, first.moved):
        entries |= leaky
    zero = all(not t[off].any() for path in entries for t in first.state[path])
    others = (first.state.keys() | second.state.keys()) - entries
    return StateKinds(frozenset(entries), frozenset(others), zero)


def why_not_values(toy: Toy) -> str:
    """Return why an optimizer cannot step the live values of a weight in its place; "" if it can.

    It can if it steps their vector as it steps the weight, and keeps one entry for each value.
    """
    try:
        whole = toy.steps(2)
        values = toy.steps(2, lambda tensor: tensor[toy.mask])
    except ProbeError as error:
        return f"it does not step them in a trial ({error})"
    others = {p for p, ts in values.state.items() if any(t.shape != values.moved.shape for t in ts)}
    others |= values.objects | whole.objects | probe(toy).others
    if others:
        names = ", ".join(sorted(map(path_name, others)))
        return f"its state {names} has not one entry for each connection"
    if not is_close(values.moved, whole.moved[toy.mask]):
        return "it steps a matrix otherwise than entry by entry"
    return ""


def is_number(tensor: Tensor) -> bool:
    """Return whether a tensor holds real or complex numbers, and no codes or counts."""
    return tensor.is_floating_point() or tensor.is_complex()


def path_name(path: Path) -> str:
    """Return a path as text."""
    return ".".join(map(str, path))


def is_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding in many steps."""
    scale = float(one.abs().max()) if one.numel() else 0.0
    return bool((one - other).abs().max() <= 4 * torch.finfo(one.dtype).eps ** 0.5 * scale)


def _are_equal(one: list[Tensor], other: list[Tensor], where: Tensor) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[where], b[where]) for a, b in zip(one, other, strict=True)
    )


def _move_along(one: list[Tensor], moved: list[Tensor], transform: Transform) -> bool:
    return len(one) == len(moved) and all(
        is_close(transform(a), b) for a, b in zip(one, moved, strict=True)
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block: on toys others only wait (50 times as long)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _waits(group: Mapping[str, Any]) -> Iterator[int]:
    """The options of a group that can be steps to wait, as an interval is."""
    for name, value in group.items():
        if type(value) is int and 0 < value <= _LONGEST_WAIT and not name.startswith("max"):
            yield value


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def _options(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor, as far as the group, the defaults or attributes say them.

    Raises:
        ProbeError: one is an object that the toy would share with the optimizer.
    """
    known = {**vars(optimizer), **optimizer.defaults, **group}
    names = list(inspect.signature(type(optimizer)).parameters)[1:]
    options = {name: known[name] for name in names if name in known}
    for name, value in options.items():
        if isinstance(value, nn.Module | Optimizer) or (
            isinstance(value, Tensor) and value.numel() > 1
        ):
            raise ProbeError(f"its option {name!r} is a {type(value).__name__}")
    return options
