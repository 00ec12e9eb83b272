"""Gradients of sparse parameters: pruned as they arrive; kept dense on update steps only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsewright.core.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.nn.functional import capture_factors, this_pass
from sparsewright.nn.linear import SparseLinear
from sparsewright.runtime.parameter import SparseParameter
from sparsewright.runtime.replicas import all_true, average_

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GradHook = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def _requires_grad(param: Tensor) -> Iterator[None]:
    """Torch registers hooks only on tensors that require a gradient, and keeps them on others."""
    was = param.requires_grad
    param.requires_grad_(True)
    try:
        yield
    finally:
        param.requires_grad_(was)


class PrunedGradient:
    """Prunes one parameter's gradient whenever it has been accumulated.

    Clipping, scalers and optimizers then see live gradients only.
    """

    def __init__(
        self, parameter: SparseParameter, grad_hook: GradHook, dense: DenseGradients
    ) -> None:
        self._parameter, self._grad_hook, self._dense = parameter, grad_hook, dense
        self._hooked: Tensor | None = None
        self._handle: RemovableHandle | None = None
        self._has_arrived = False

    def follow(self) -> None:
        """Hook the parameter, anew if it was replaced since; a frozen one may be unfrozen later."""
        param = self._parameter.param
        if param is self._hooked:
            return
        if self._parameter.is_compressed and sharded.is_sharded(param):
            raise AttachError(
                self._parameter.name,
                "it is compressed and cannot be sharded as well; use storage 'masked', or "
                "DistributedDataParallel",
            )
        self.remove()
        self._hooked = param
        # Weakly: garbage collection does not see through this kind of hook; all would live on.
        method = weakref.WeakMethod(self._after_accumulation)

        def accumulated(param: Tensor) -> None:
            alive = method()
            if alive is not None:
                alive(param)

        with _requires_grad(param):
            self._handle = param.register_post_accumulate_grad_hook(accumulated)
        self._parameter.prune_all()

    def remove(self) -> None:
        """Take the hook off."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._hooked = None

    def _after_accumulation(self, param: Tensor) -> None:
        if param.grad is not None:
            self._has_arrived = True
            self._dense.commit(self._parameter)
            self._prune(param, param.grad)

    def before_step(self) -> None:
        """Take a gradient that no backward pass brought: copied from another model, say."""
        param = self._parameter.param
        if not self._has_arrived and param.grad is not None:
            self._dense.take(self._parameter)
            self._prune(param, param.grad)
        self._has_arrived = False

    def _prune(self, param: Tensor, grad: Tensor) -> None:
        pruned = self._grad_hook(param, grad)
        if pruned is not grad:
            param.grad = pruned
        self._dense.note_version(self._parameter)


class FactoredGradient:
    """The dense gradient of a compressed weight, `dyᵀ x` summed over batches, not multiplied out.

    Args:
        factors: pairs of x `[tokens, cols]` and dy `[tokens, rows]`.
        shape: `[rows, cols]`.
        group: ranks over which it is averaged, a block at a time.
    """

    # 4 MB of float32 at 4096 columns: a block stays in cache while it is scored.
    _BLOCK_ROWS = 256

    def __init__(
        self,
        factors: list[tuple[Tensor, Tensor]],
        shape: torch.Size,
        group: ProcessGroup | None = None,
    ) -> None:
        self.factors, self.shape, self.group = factors, shape, group

    def is_finite(self) -> bool:
        """Whether all of the factors are finite, on every rank."""
        finite = all(sharded.all_finite(factor) for pair in self.factors for factor in pair)
        return all_true(finite, self.group, torch.device("cpu"))

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and the gradient `[block, cols]` of one block of rows after the other."""
        for start in range(0, self.shape[0], self._BLOCK_ROWS):
            rows = slice(start, start + self._BLOCK_ROWS)
            height = len(range(*rows.indices(self.shape[0])))
            block = torch.zeros(height, self.shape[1], dtype=torch.float32, device="cpu")
            for x, dy in self.factors:
                block.addmm_(dy[:, rows].T.float(), x.float())
            if self.group is not None:
                average_(block, self.group).wait()
            yield start, block

    def dense(self) -> Tensor:
        """The whole gradient, `[rows, cols]`."""
        none = torch.empty(0, self.shape[1], dtype=torch.float32, device="cpu")
        return torch.cat([none, *(block for _, block in self.row_blocks())])


class DenseGradients:
    """The dense gradients of one coming step, summed over its micro-batches.

    Armed parameters carry a hook that sees each micro-batch's gradient before it is accumulated
    (and pruned). A gradient counts once it has really been accumulated, so `torch.autograd.grad`
    leaves no trace; when the user starts a step afresh (`zero_grad`) so does the sum, so a step
    that a `GradScaler` skipped leaves none either.

    Attributes:
        group: the ranks that train replicas of the model; None: there are no others.
    """

    def __init__(self) -> None:
        self.group: ProcessGroup | None = None
        self._armed: dict[str, tuple[nn.Module, Tensor, RemovableHandle | None]] = {}
        self._arriving: dict[str, Tensor | None] = {}
        self._sums: dict[str, Tensor] = {}
        self._factors: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._versions: dict[str, int] = {}
        self._held: dict[str, weakref.ref[Tensor]] = {}

    def arm(self, parameters: Iterable[SparseParameter]) -> None:
        """Collect the dense gradients of these parameters until they are disarmed."""
        for parameter in parameters:
            if parameter.name not in self._armed:
                # The gradient of a shard never passes through autograd: see _commit_shard.
                is_sharded = sharded.is_sharded(parameter.param)
                handle = None if is_sharded else self._hook(parameter)
                self._armed[parameter.name] = (parameter.module, parameter.param, handle)
                if isinstance(parameter.module, SparseLinear):
                    capture_factors(parameter.module, True)

    def follow(self, parameters: Iterable[SparseParameter]) -> None:
        """Collect from the parameters, and the modules, that have replaced others since."""
        for parameter in parameters:
            module, param, _ = self._armed.get(parameter.name, (None, None, None))
            is_same = module is parameter.module and param is parameter.param
            if param is not None and not is_same:
                self.disarm([parameter])
                self.arm([parameter])

    def disarm(self, parameters: Iterable[SparseParameter]) -> None:
        """Forget the dense gradients of these parameters and stop collecting."""
        for parameter in parameters:
            armed = self._armed.pop(parameter.name, None)
            if armed is not None:
                if armed[2] is not None:
                    armed[2].remove()
                if isinstance(parameter.module, SparseLinear):
                    capture_factors(parameter.module, False)
            self.forget(parameter)

    def forget(self, parameter: SparseParameter) -> None:
        """Free the dense gradient of a parameter."""
        for held in (self._arriving, self._sums, self._factors, self._versions, self._held):
            held.pop(parameter.name, None)

    @torch.no_grad()
    def average(self, parameters: Iterable[SparseParameter]) -> None:
        """Average the dense gradients of replicas over their ranks.

        Every rank takes part with every parameter: one that saw no gradient there adds zeros.
        Shards are averaged already, factors when they are multiplied out.
        """
        if self.group is None:
            return
        pending = []
        for parameter in parameters:
            name = parameter.name
            if parameter.is_compressed:
                self._factors.setdefault(name, [])
            elif not sharded.is_sharded(parameter.param):
                if name not in self._sums:
                    self._sums[name] = torch.zeros_like(parameter.param)
                pending.append(average_(self._sums[name], self.group))
        for work in pending:
            work.wait()

    def get(self, parameter: SparseParameter) -> Tensor | FactoredGradient | None:
        """The dense gradient collected, of the weight's shape; None: there was none."""
        if parameter.name in self._factors:
            factors = self._factors[parameter.name]
            return FactoredGradient(factors, parameter.shape, self.group)
        return self._sums.get(parameter.name)

    def _hook(self, parameter: SparseParameter) -> RemovableHandle:
        name = parameter.name

        def arrive(grad: Tensor) -> None:
            # Holding on to the first one would make autograd copy it instead of taking it.
            self._arriving[name] = None if self._is_first(parameter) else grad

        with _requires_grad(parameter.param):
            handle: RemovableHandle = parameter.param.register_hook(arrive)
        return handle

    def _is_first(self, parameter: SparseParameter) -> bool:
        """Whether the user cleared the gradient since the last micro-batch was accumulated."""
        held = parameter.param.grad
        if held is None:
            return True
        return held._version != self._versions.get(parameter.name) and not bool(held.any())

    @torch.no_grad()
    def commit(self, parameter: SparseParameter) -> None:
        """Add the gradient that arrived to the sum: it has been accumulated, not yet pruned."""
        name, grad = parameter.name, parameter.param.grad
        if grad is not None and name in self._armed and sharded.is_sharded(grad):
            self._commit_shard(parameter, grad)
        if name not in self._arriving or grad is None:
            return
        arrived = self._arriving.pop(name)
        module = parameter.module
        if isinstance(module, SparseLinear):
            # Of this pass: `torch.autograd.grad` may have left factors of another.
            captured = (module.captured or {}).pop(this_pass(), [])
            before = self._factors.get(name, []) if arrived is not None else []
            self._factors[name] = before + captured
        elif arrived is not None and name in self._sums:
            self._sums[name] += arrived
        else:
            self._sums[name] = (grad if arrived is None else arrived).detach().clone()

    def _commit_shard(self, parameter: SparseParameter, grad: Tensor) -> None:
        """The same where only the accumulated gradient is seen, averaged over the ranks.

        It is the sum wherever the mask is True; elsewhere it was pruned, and is what arrived. A
        new tensor means that the user cleared the last one.
        """
        name, held = parameter.name, self._held.get(parameter.name)
        if held is None or held() is not grad or name not in self._sums:
            self._sums[name] = grad.detach().clone()
            self._held[name] = weakref.ref(grad)
            return
        total, new = sharded.local(self._sums[name]), sharded.local(grad)
        total += new
        torch.where(sharded.local(parameter.mask), new, total, out=total)

    @torch.no_grad()
    def take(self, parameter: SparseParameter) -> None:
        """Take the gradient as it is for the dense one, if it has anything outside of the mask."""
        grad = parameter.param.grad
        if parameter.name in self._armed and not parameter.is_compressed and grad is not None:
            dense = grad.detach().clone()
            if bool(dense.masked_fill(parameter.mask, 0).any()):
                self._sums[parameter.name] = dense

    def note_version(self, parameter: SparseParameter) -> None:
        """Remember the accumulated gradient as it is now, pruned: whoever writes to it shows."""
        if parameter.name in self._armed and parameter.param.grad is not None:
            self._versions[parameter.name] = parameter.param.grad._version
