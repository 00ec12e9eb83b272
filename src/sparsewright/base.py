"""The base of every sparsity algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.core.errors import (
    AttachError,
    OptionError,
    OptionTypeError,
    ScoreError,
    ShapeError,
    warn,
)
from sparsewright.core.filters import default_sparse_param_filter
from sparsewright.core.hooks import Observed
from sparsewright.core.schedule_set import ScheduleSet
from sparsewright.core.schedules import HyperParameterSchedule
from sparsewright.core.shapers import ScoreShaper
from sparsewright.core.state_dicts import check_seed
from sparsewright.init import InitMethod, call_init_method, make_init_method
from sparsewright.nn.compress import compress_attached
from sparsewright.runtime.attach import Attachment, attach_routed, unwrapped
from sparsewright.runtime.describe import describe, describe_html
from sparsewright.runtime.parameter import SparseParameter
from sparsewright.runtime.replicas import check_process_group
from sparsewright.runtime.resumable import Resumable
from sparsewright.runtime.rng import make_generator
from sparsewright.runtime.scope import all_or_nothing, attached
from sparsewright.runtime.walk import check_weight, dense_form, find_owner, root_of_apply

__all__ = ["SparseParameter", "SparsityAlgorithm"]


class SparsityAlgorithm(Observed, Resumable, ABC):
    """Makes weights of a model sparse, and keeps them so while an optimizer trains it.

    ::

        sparsity.apply(model)          # masks on the weights
        sparsity.apply(optimizer)      # follows its steps; the loop stays as it is

    Args:
        sparsity: fraction pruned, 0..1: a number, a schedule, a dict `{"type": ...}`, a list
            (cycling), a function of the step, or a mapping `{parameter: any of these}`. Scheduled
            values are clamped to 0..1.
        init_method: `"random"`, `"topk"`, `"from_zeros"`, `"checkerboard"` or a function
            `(p, sparsity, score_shaper=None, device=None) -> bool mask`.
        seed: seed of the algorithm's own randomness, which is keyed by (seed, parameter, step).

    Attributes:
        autoupdate: call `update` after each step of a sparsified optimizer.
        storage: `"masked"`, or `"compressed"`: `apply` stores weights compressed where it can.
        seed: the seed.
        schedules: by name, the schedules that move, and are saved, with the run.
        score_shaper: which entries of a weight compete for a place; None: all.

    Raises:
        LevelError: a level outside 0..1.
        OptionError, OptionTypeError: an option that is not understood.
    """

    def __init__(
        self, sparsity: Any = None, init_method: str | InitMethod = "random", *, seed: int = 0
    ) -> None:
        super().__init__()
        check_seed(seed)
        self.seed = seed
        self.autoupdate = True
        self.storage = "masked"
        self.init_method = make_init_method(init_method)
        self.schedules = ScheduleSet()
        self._own_levels: dict[Tensor, str] = {}
        self._level_names: dict[str, str] = {}
        self._steps: list[int] = []
        self.score_shaper: ScoreShaper | None = None
        self._attachment = Attachment(self, self._grad_hook)
        self._set_sparsity(sparsity)

    @property
    def sparsity(self) -> Mapping[Tensor, HyperParameterSchedule]:
        """Parameter -> schedule of its level."""
        return {p.param: self.schedules[self._level_of(p)] for p in self.sparse_params.values()}

    def _set_sparsity(self, sparsity: Any) -> None:
        if isinstance(sparsity, Mapping) and any(isinstance(key, Tensor) for key in sparsity):
            for index, (param, level) in enumerate(sparsity.items()):
                self._own_levels[param] = self.schedules.add_shared(f"sparsity.{index}", level)
        elif sparsity is not None:
            self.schedules.add("sparsity", sparsity)
        else:
            raise OptionError("sparsity", None, "a number 0..1, a schedule, a list, a function")

    def _level_of(self, parameter: SparseParameter) -> str:
        return self._level_names[parameter.name]

    @property
    def process_group(self) -> Any:
        """The ranks that train replicas of the model, whose dense gradients are averaged.

        `"auto"`: those of the `DistributedDataParallel` that `apply` was given, or else all, once
        `torch.distributed` is initialized. A `ProcessGroup`: its ranks. None: nobody.
        """
        return self._attachment.process_group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        self._attachment.process_group = check_process_group(group)

    @property
    def sparse_params(self) -> Mapping[str, SparseParameter]:
        """Full name -> sparse parameter."""
        return dict(self._attachment.parameters)

    @property
    def num_sparse_params(self) -> int:
        """How many parameters are sparse."""
        return len(self.sparse_params)

    def get_sparse_params(
        self, obj: Tensor | nn.Module | Optimizer
    ) -> SparseParameter | Iterator[SparseParameter] | None:
        """Look up sparse parameters.

        Args:
            obj: a tensor (gives its sparse parameter or None), or a module or an optimizer (gives
                an iterator over the sparse parameters in it).

        Raises:
            OptionTypeError: anything else.
        """
        if isinstance(obj, Tensor):
            return self._attachment.find(obj)
        if isinstance(obj, nn.Module):
            params: Iterable[Tensor] = obj.parameters()
        elif isinstance(obj, Optimizer):
            params = (param for group in obj.param_groups for param in group["params"])
        else:
            raise OptionTypeError("get_sparse_params", obj, "a Tensor, a Module or an Optimizer")
        wanted = {id(param) for param in params}
        return (p for p in self.sparse_params.values() if id(p.param) in wanted)

    def apply(self, obj: nn.Module | Optimizer) -> None:
        """Sparsify a module or an optimizer.

        A module's masks are computed at once. An optimizer may come before or after the module,
        and there may be several; each steps its own parameters. With master weights, sparsify the
        module that the optimizer steps; copies of its weights are sparse as it is.

        Raises:
            OptionTypeError: neither a Module nor an Optimizer.
            AttachError: a parameter that cannot have a mask.
        """
        if isinstance(obj, nn.Module):
            with all_or_nothing(self._attachments()):
                self.sparsify_module(obj)
                self.initialize()
                self._compress(obj)
        elif isinstance(obj, Optimizer):
            self.sparsify_optimizer(obj)
        else:
            raise OptionTypeError("apply", obj, "a Module or an Optimizer")

    def _attachments(self) -> list[Attachment]:
        return [self._attachment]

    @property
    def is_attached(self) -> bool:
        """Whether it was applied to a model or an optimizer, and not removed."""
        return any(part.parameters or part.optimizers for part in self._attachments())

    def _compress(self, module: nn.Module) -> None:
        """Compress those of the algorithm's own weights that can be, if it is to."""
        if self.storage == "compressed":
            compress_attached(module, self)

    def __call__(self, obj: nn.Module | Optimizer) -> None:
        """What makes `model.apply(sparsity)` the same as `sparsity.apply(model)`.

        `nn.Module.apply` calls this for every submodule, children first; all visits but that of
        the module it was called on are ignored.
        """
        if not isinstance(obj, nn.Module) or root_of_apply(self, obj) is obj:
            self.apply(obj)

    def sparsify_module(self, module: nn.Module) -> None:
        """Attach every parameter below `module` that `default_sparse_param_filter` picks."""

        def route(name: str, param: Tensor) -> SparsityAlgorithm | None:
            return self if default_sparse_param_filter(name, param) else None

        attach_routed(module, route)
        self._attachment.before_forward(module, self.initialize)

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise if a parameter cannot be sparsified; called before anything is attached.

        Args:
            name: full name.
            param: the parameter, any shape.

        Raises:
            AttachError: its shape is not known yet, or it is sharded in a way not supported.
            OptionError: the levels were given by parameter, and it is not among them.
            ShapeError: the score shaper's groups do not divide it.
        """
        check_weight(name, param)
        if self._own_levels and not param.is_meta and param not in self._own_levels:
            raise OptionError("sparsity", name, "one of the parameters that levels were given for")
        if self.score_shaper is not None:
            try:
                self.score_shaper(torch.empty(param.shape, device="meta"))
            except ShapeError as error:
                raise ShapeError(name, param.shape, error.problem) from None

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter: a mask buffer on its module, hooks on its gradient.

        Args:
            module: the module that owns the parameter, or one above it.
            name: full name; its last part is the parameter's name in its module.
            param: the parameter, any shape.

        Raises:
            AttachError: `param` is not in `module`, or cannot have a mask.
        """
        owner, param_name = find_owner(module, name, param)
        self.check_parameter(name, dense_form(owner, param))
        parameter = self._attachment.add_parameter(name, owner, param_name, self._make_mask)
        # By name: `load_state_dict(assign=True)` and `to_empty` put another tensor in its place.
        self._level_names[parameter.name] = self._own_levels.get(param, "sparsity")
        self._attachment.before_forward(module, self.initialize)
        self.csx_annotate_sparsity(parameter)

    def sparsify_optimizer(self, optimizer: Optimizer) -> None:
        """Follow an optimizer: after each of its steps, `update(optimizer)` runs."""
        optimizer = unwrapped(optimizer)
        if optimizer in self._attachment.optimizers:
            warn("the optimizer was sparsified already; nothing changes")
            return
        self._attachment.add_optimizer(optimizer, self._after_optimizer_step)
        self._attachment.take_over(optimizer, self._steps)
        self.after_state_change()

    def _after_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.autoupdate and self._attachment.is_stepped_by(optimizer):
            self.update(optimizer)

    def initialize(self) -> None:
        """Compute the masks that are not there yet, prune the weights, and hook the gradients."""
        for parameter in self._attachment.parameters.values():
            parameter.initialize()
            parameter.prune()
        if all(p.is_initialized for p in self.sparse_params.values()):
            self._attachment.end_before_forward()
        self.after_state_change()

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        """The mask before the first step: the init method at the level of step 0."""
        try:
            return call_init_method(
                self.init_method,
                parameter.param,
                self.schedules.value(self._level_of(parameter), 0),
                score_shaper=self.score_shaper,
                device=parameter.param.device,
                generator=make_generator(self.seed, parameter.name, 0),
            )
        except ScoreError as error:
            raise ScoreError(f"{error.what} of {parameter.name}") from None

    def remove(self, optimizer: Optimizer | None = None) -> None:
        """Take everything off the model and its optimizers: hooks, buffers, attributes.

        The weights keep their zeros, and train on as dense weights. `step` and the schedules stay
        as they are: what is applied afterwards goes on from there.

        Args:
            optimizer: stop following this one only, such as one that another has replaced.

        Raises:
            AttachError: an optimizer that is not followed.
        """
        if optimizer is None:
            self._attachment.remove()
            self._level_names.clear()
            return
        optimizer, followed = unwrapped(optimizer), self._attachment.optimizers
        if optimizer not in followed:
            raise AttachError(type(optimizer).__name__, "it is not followed")
        slot = followed.index(optimizer)
        del self._steps[slot : slot + 1]
        self._attachment.remove_optimizer(optimizer)

    attached = attached
    """`with sparsity.attached(model, optimizer):` is sparse inside the block."""

    @abstractmethod
    def update(self, optimizer: Optimizer | None = None) -> None:
        """What happens after an optimizer step; called by hand only if `autoupdate` is False.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
        """

    def _begin_step(self, optimizer: Optimizer | None) -> tuple[int, list[SparseParameter]]:
        """Count the step, prune what it wrote; its number and its parameters."""
        attachment = self._attachment
        self._fold_steps()
        slot = attachment.optimizers.index(optimizer) if optimizer in attachment.optimizers else 0
        self._steps += [0] * (slot + 1 - len(self._steps))
        if optimizer is None:
            self._steps = [self.step] * max(len(self._steps), len(attachment.optimizers))
        if self._steps[slot] == self.step:
            self.schedules.update(self._is_due(self.step))
        for stepped in range(len(self._steps)) if optimizer is None else [slot]:
            self._steps[stepped] += 1
        attachment.follow()
        attachment.meet_replicas(self._steps, self.seed)
        parameters = (
            list(attachment.parameters.values()) if optimizer is None else attachment.of(optimizer)
        )
        attachment.prune_step(parameters, optimizer)
        self._hooks.call("begin", self, self._steps[slot], parameters, optimizer)
        return self._steps[slot], parameters

    def _end_step(self, step: int, parameters: list[SparseParameter]) -> None:
        """Tell the hooks what levels were asked for and reached."""
        if self._hooks.has("target"):
            for level in dict.fromkeys(map(self._level_of, parameters)):
                names = [p.name for p in parameters if self._level_of(p) == level]
                target = self.schedules.value(level, step)
                self._hooks.call("target", self, commonprefix(names) + "*", target)
        if self._hooks.has("computed"):
            for p in parameters:
                computed = torch.tensor(p.computed_sparsity, device="cpu")
                self._hooks.call("computed", self, p.name, computed)
        self._hooks.call("end", self, step, parameters)

    def _is_due(self, step: int) -> bool:
        """Whether masks change at a step."""
        return False

    def prune_weight(self, sparse_param: SparseParameter) -> None:
        """Set the weight to zero where its mask is False."""
        sparse_param.prune()

    def _grad_hook(self, p: Tensor, grad: Tensor) -> Tensor:
        """Prune a gradient that has just been accumulated.

        Args:
            p: the weight.
            grad: its gradient, shaped like it.

        Returns:
            The pruned gradient.
        """
        parameter = self._attachment.find(p)
        return grad if parameter is None else parameter.prune(grad)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attachment = Attachment(self, self._grad_hook)

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Record the smallest, largest and last level on a sparse parameter, as capacity hints.

        Annotates `min_sparsity`, `max_sparsity` and `sparsity` (the last), each 0..1; nothing if
        the level has no formula (a function of the step) and there is no last update step.
        """
        levels = self.schedules.min_max_end(self._level_of(param), *self._level_steps())
        for name, value in zip(("min_sparsity", "max_sparsity", "sparsity"), levels, strict=False):
            param.annotate(name, value)

    def _level_steps(self) -> tuple[int, int | None]:
        """First and last step at which a level is used; None: there is no last."""
        return 0, 0

    __repr__ = describe
    _repr_html_ = describe_html
