"""Trial steps on toy weights, which show what an optimizer's state contains.

A toy is a small weight with a mask. A new optimizer of the same class, with the same options, steps
it with random gradients. The user's weights, optimizer states and global random generators are
neither read nor written.
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
"""The keys that lead to a tensor in a weight's state; tensors in one list share a path."""

Transform = Callable[[Tensor], Tensor]

_PLAIN = (Tensor, bool, int, float, str, type(None))
_STEPS = 12  # SOAP rotates its basis at every tenth step
_LONGEST_WAIT = 62
_RATE = 0.05  # large enough to show what depends on the weight; a schedule may start at 0


class ProbeError(Exception):
    """Raised when a toy cannot be built or stepped; the message says why."""


@dataclass(frozen=True)
class StateKinds:
    """Classification of the tensors in a weight's state: one entry for each connection, or not.

    Attributes:
        entries: paths of tensors with one entry for each connection; the mask applies to them.
        others: paths of other tensors: factors, rotated moments, rows and columns.
        keeps_zero: whether the entries of pruned connections stay 0 without pruning.
        why_not_known: why the trial failed; "" if it succeeded.
        is_declared: whether the optimizer itself declares its entries, by their first keys.
    """

    entries: frozenset[Path] = frozenset()
    others: frozenset[Path] = frozenset()
    keeps_zero: bool = False
    why_not_known: str = ""
    is_declared: bool = False

    @property
    def must_be_pruned(self) -> bool:
        """Return whether entries of pruned connections may be nonzero after a step."""
        return not self.keeps_zero and not self.why_not_known

    def is_entry(self, path: Path) -> bool | None:
        """Return whether a tensor has one entry for each connection; None if that is not known."""
        if self.is_declared:
            return path[:1] in self.entries
        return None if path not in self.entries | self.others else path in self.entries


@dataclass(frozen=True)
class Outcome:
    """Result of a toy's steps.

    Attributes:
        moved: change of the weight.
        state: the state's tensors with more than one entry, by path.
        objects: paths of objects that are neither plain data nor readable tensors.
    """

    moved: Tensor
    state: dict[Path, list[Tensor]]
    objects: set[Path]


def leaves_by_path(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each value in a state with its path, including values in nested dicts and lists."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from leaves_by_path(value, (*path, key))
    elif isinstance(state, list | tuple | deque):
        for value in state:
            yield from leaves_by_path(value, path)
    else:
        yield path, state


def tensors_by_path(state: Any) -> Iterator[tuple[Path, Tensor]]:
    """Yield each tensor in a state with its path, including tensors in nested dicts and lists."""
    for path, leaf in leaves_by_path(state):
        if isinstance(leaf, Tensor):
            yield path, leaf


def read(tensor: Tensor) -> Tensor | None:
    """Return a tensor, dequantized if needed; None if its type cannot be read as numbers."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    try:
        dense: Tensor = tensor.dequantize()
    except Exception:  # the subclass may not implement the operator
        return None
    return dense if type(dense) is Tensor else None


class Toy:
    """Train toys that stand for the weights of one parameter group and number of dimensions.

    Args:
        optimizer: the user's optimizer, which is not stepped.
        group: one of its parameter groups.
        param: a weight of that group, which gives the toys' dtype and device.
        ndim: number of dimensions of the toys.
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
        # LBFGS makes 20 iterations in each step.
        self._steps = max(2, steps // self._group.get("max_iter", 1))
        self._orders = [
            torch.randperm(n, generator=_numbers(dim)) for dim, n in enumerate(self.shape[:2], 9)
        ]
        self.mask = self._draw(_numbers(0)).real < 0

    def _draw(self, generator: torch.Generator) -> Tensor:
        dtype = self._dtype if self._dtype.is_complex else torch.float32
        drawn = torch.randn(self.shape, generator=generator, dtype=dtype, device="cpu")
        return drawn.to(self._device, self._dtype)

    def shuffled(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the toy's shape with its rows and columns permuted."""
        for dim, order in enumerate(self._orders):
            tensor = tensor.index_select(dim, order.to(tensor.device))
        return tensor

    def steps(
        self,
        seed: int,
        transform: Transform = lambda tensor: tensor,
        pruned: frozenset[Path] = frozenset(),
    ) -> Outcome:
        """Train a toy with masked weight and gradients, and return the outcome.

        Args:
            seed: seed of the random gradients.
            transform: applied to the weight, the gradients and the mask.
            pruned: paths of state tensors that are masked after each step.

        Raises:
            ProbeError: the optimizer cannot be constructed, or its step raises.
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
            except Exception as error:  # runs a third-party step(); ProbeError has its error
                first = next(iter(str(error).splitlines()), "")
                raise ProbeError(f"{type(error).__name__}: {first}") from error

    def _stepped(self, seed: int, transform: Transform, pruned: frozenset[Path]) -> Outcome:
        mask = transform(self.mask)
        start = transform(self._draw(_numbers(1))) * mask
        param = nn.Parameter(start.clone())
        optimizer: Any = self._class([{**self._group, "params": [param]}], **self._options)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # Schedule-Free optimizers have a training mode
        generator = _numbers(seed)
        for _ in range(self._steps):
            drawn = transform(self._draw(generator)) * mask

            def closure(drawn: Tensor = drawn) -> Tensor:
                with torch.enable_grad():  # AdaHessian differentiates the gradient
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
    """Return which tensors in a toy's state have one entry for each connection.

    Such a tensor has the weight's shape and passes one of two tests. The first test: its entries
    for pruned connections do not depend on the gradients of live connections. The second test: it
    is permuted along with the weight's rows and columns, and pruning it changes nothing for live
    connections.

    Raises:
        ProbeError: the toy cannot be built or stepped.
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
    """Return why an optimizer cannot step a weight's live values; "" if it can.

    It can if it steps the vector of values exactly as it steps these entries of the weight, and if
    its state has one entry for each value.
    """
    try:
        whole = toy.steps(2)
        values = toy.steps(2, lambda tensor: tensor[toy.mask])
    except ProbeError as error:
        return f"a trial step failed ({error})"
    others = {p for p, ts in values.state.items() if any(t.shape != values.moved.shape for t in ts)}
    others |= values.objects | whole.objects | probe(toy).others
    if others:
        names = ", ".join(sorted(map(path_name, others)))
        return f"its state ({names}) does not have one entry for each connection"
    if not is_close(values.moved, whole.moved[toy.mask]):
        return "it does not step a matrix entry by entry"
    return ""


def is_number(tensor: Tensor) -> bool:
    """Return whether a tensor holds real or complex numbers, as opposed to codes or counts."""
    return tensor.is_floating_point() or tensor.is_complex()


def path_name(path: Path) -> str:
    """Return a path as text."""
    return ".".join(map(str, path))


def is_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to the rounding errors of many steps."""
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
    """Limit torch to one thread inside the block; on toys, more threads are 50 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _waits(group: Mapping[str, Any]) -> Iterator[int]:
    """Yield the options of a group that may be a number of steps, such as an interval."""
    for name, value in group.items():
        if type(value) is int and 0 < value <= _LONGEST_WAIT and not name.startswith("max"):
            yield value


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def _options(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments, taken from the group, the defaults and the attributes.

    Raises:
        ProbeError: an argument is an object that the toy would share with the optimizer.
    """
    known = {**vars(optimizer), **optimizer.defaults, **group}
    names = list(inspect.signature(type(optimizer)).parameters)[1:]
    options = {name: known[name] for name in names if name in known}
    for name, value in options.items():
        if isinstance(value, nn.Module | Optimizer) or (
            isinstance(value, Tensor) and value.numel() > 1
        ):
            raise ProbeError(
                f"its option {name!r} is a {type(value).__name__}, which trial steps could change"
            )
    return options
