"""Base class of all sparsity algorithms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.core.filters import ParamFilter, default_sparse_param_filter
from sparsewright.core.hooks import Observed
from sparsewright.core.inference import outside_inference_mode
from sparsewright.core.state_dicts import check_seed
from sparsewright.distributions import DistributionLike
from sparsewright.errors import (
    AttachError,
    MissingOptionError,
    OptionTypeError,
    ScoreError,
    warn,
)
from sparsewright.init import InitMethod, call_init_method, make_init_method
from sparsewright.layers import dense_form
from sparsewright.schedules.schedule import HyperParameterSchedule
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.session.algorithm_state import Resumable
from sparsewright.session.attached import attached
from sparsewright.session.choice import check_fits_in
from sparsewright.session.convert import compress_own
from sparsewright.session.own_parameters import OwnParameters
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.representation import describe, describe_html
from sparsewright.session.rng import make_generator
from sparsewright.session.route import (
    all_or_nothing,
    attach_parameter,
    attach_routed,
    initialize,
)
from sparsewright.session.session import Session
from sparsewright.session.settings import LevelLike, Settings, check_keywords
from sparsewright.session.summary import log_summary
from sparsewright.session.walk import check_weight, find_owner
from sparsewright.structures import StructureLike
from sparsewright.torch_private import root_of_apply

__all__ = ["SparseParameter", "SparsityAlgorithm"]


class SparsityAlgorithm(Observed["SparsityAlgorithm"], Settings, OwnParameters, Resumable):
    """Make the weights of a model sparse and keep them sparse during training.

    ::

        sparsity.apply(model)          # adds masks to the weights
        sparsity.apply(optimizer)      # follows its steps; your loop stays unchanged

    Args:
        sparsity: fraction of pruned entries, 0..1: a number, a schedule, a dict `{"type": ...}`, a
            list (cycling), a function of the step, or a mapping from parameters to any of these.
            Scheduled values are clamped to 0..1. None: `structure` or `distribution` sets it.
        init_method: `"random"`, `"topk"`, `"from_zeros"`, `"checkerboard"` or a function
            `(p, sparsity, score_shaper=None, device=None) -> bool mask`, as `init.from_scores` is.
        seed: seed of the algorithm's own randomness, which is keyed by (seed, parameter, step).
        storage: how weights are stored: `"masked"`, `"compressed"` (`apply` compresses where it
            can) or `"shadowed"` (the optimizer trains dense weights, the model uses pruned ones).
            None selects the Group's storage if it is set, else the algorithm's default.
        distribution: how levels are assigned to weights: a name such as `"erk"`, a dict
            `{"type": ...}` or `{"layers": {glob: level}}`, a function `(shapes, level) -> levels`.
        structure: the pattern that each mask follows: `"2:4"`, a dict `{"type": ...}`, a
            `Structure` or a score shaper. None: unstructured masks.
        unknown: any other keyword, which raises UnknownOptionError.

    Attributes:
        name: the algorithm's name in configurations.
        paper: the source, such as `"arXiv:1911.11134"`; "" if it needs no source.
        needs_dense_gradient: whether updates also read the gradient of pruned connections.
        selections: for cost estimates, the entries (`"all"`, `"live"`, `"pruned"`) that each
            selection of a mask update chooses from, and the score that ranks them (`"weight"`,
            `"gradient"`, `"random"`).
        session: the attachments to models and optimizers; a Group's algorithms share one.
        init_method: the function that makes the first mask.
        seed: the seed.
        schedules: the schedules by name; they advance, and are saved, with the run.

    Raises:
        LevelError: a level is outside 0..1, or the structure does not support it.
        OptionError, OptionTypeError: an option is invalid or does not work with another one.
        UnknownOptionError: a keyword is not an option; the message suggests a similar option.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs_dense_gradient: ClassVar[bool] = False
    selections: ClassVar[tuple[tuple[str, str], ...]] = ()
    session: Session

    def __init__(
        self,
        sparsity: LevelLike | None = None,
        init_method: str | InitMethod = "random",
        *,
        seed: int = 0,
        storage: str | None = None,
        distribution: DistributionLike = None,
        structure: StructureLike = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        check_keywords(type(self), unknown)
        check_seed(seed)
        self.seed = seed
        self.init_method = make_init_method(init_method)
        self.schedules = ScheduleSet()
        self.shadows: dict[str, Tensor] = {}
        self._routes: list[tuple[ParamFilter, SparsityAlgorithm]] = [
            (default_sparse_param_filter, self)
        ]
        self._own_levels: dict[Tensor, str] = {}
        self._level_names: dict[str, str] = {}
        self.session = Session(self)
        self._choose(storage, distribution, structure)
        self._set_sparsity(sparsity)
        self._check_choices(self.distribution, self.structure)

    @property
    def algorithms(self) -> list[SparsityAlgorithm]:
        """Return the distinct algorithms of a Group, in order; for other algorithms, `[self]`."""
        return list({id(algorithm): algorithm for _, algorithm in self._routes}.values())

    @property
    def is_single(self) -> bool:
        """Return whether this algorithm computes masks itself; a Group does not."""
        return len(self._routes) == 1 and self._routes[0][1] is self

    @property
    def sparsity(self) -> Mapping[Tensor, HyperParameterSchedule]:
        """Return a mapping from each parameter to the schedule of its level.

        Raises:
            AttachError: this is a Group, which has no level of its own; use `group[i].sparsity`.
        """
        if not self.is_single:
            name = type(self).__name__
            raise AttachError(
                f"sparsity of a {name}", "each algorithm has its own; use group[i].sparsity"
            )
        return {p.param: self.schedules[self.schedule_of(p)] for p in self.sparse_params.values()}

    def apply(self, obj: nn.Module | Optimizer, replace: bool = False) -> None:
        """Sparsify a module or an optimizer.

        For a module, this call computes the masks. You can apply optimizers before or after the
        module, and you can apply several; each one steps its own parameters. With master weights,
        sparsify the module that the optimizer steps; working copies are sparse automatically.

        A model that already has masks, such as a copy of a sparse model, keeps them. A higher
        level prunes them further by magnitude, and a lower constant level grows them.

        Args:
            obj: the module or the optimizer.
            replace: remove any other algorithm from the module first; its masks stay.

        Raises:
            OptionTypeError: `obj` is neither a Module nor an Optimizer.
            AttachError: a parameter cannot have a mask, or belongs to another algorithm.
            LevelError: a distribution or a structure cannot reach a level of the schedule.
        """
        self._gather()
        if isinstance(obj, nn.Module):
            options = {"replace": True} if replace else {}  # a subclass may not accept it
            with all_or_nothing(self.session, obj), outside_inference_mode():
                self.sparsify_module(obj, **options)
                self.initialize()
                compress_own(obj, self.session, self.algorithms)
                own = self.sparse_params.values()
                log_summary(type(self).__name__, own, self.session.left_dense)
        elif isinstance(obj, Optimizer):
            with outside_inference_mode():
                self.sparsify_optimizer(obj)
        else:
            raise OptionTypeError("the argument of apply", obj, "a Module or an Optimizer")

    def _gather(self) -> None:
        """Reclaim algorithms that were also added to another Group, which does not use them.

        Raises:
            AttachError: another Group has applied one of the algorithms.
        """
        if not self.is_single:
            for algorithm in self.algorithms:
                if algorithm.session is not self.session and algorithm.is_attached:
                    problem = "it was already applied as part of another Group; create a new one"
                    raise AttachError(type(algorithm).__name__, problem)
                algorithm.session = self.session

    def __call__(self, obj: nn.Module | Optimizer) -> None:
        """Make `model.apply(sparsity)` equivalent to `sparsity.apply(model)`.

        `nn.Module.apply` calls this for every submodule, children first. Only the call for the
        module on which the user called `apply` has an effect.
        """
        if not isinstance(obj, nn.Module) or root_of_apply(self, obj) is obj:
            self.apply(obj)

    def sparsify_module(self, module: nn.Module, replace: bool = False) -> None:
        """Attach each parameter of `module` to the first algorithm whose filter matches it.

        An algorithm outside a Group uses `default_sparse_param_filter`. With that filter, the
        following weights stay dense: embeddings and weights tied to them, norms, output heads,
        vectors of any shape, frozen weights, routers, adapters, and weights that do not fit the
        option `structure`.

        Args:
            module: the module.
            replace: remove any other algorithm from the module first; its masks stay.
        """
        attach_routed(self.session, module, self._routes, replace)
        self.session.before_forward(module, self.initialize)

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise if a parameter cannot be sparsified; called before anything is attached.

        Args:
            name: full name.
            param: the parameter, any shape.

        Raises:
            AttachError: its shape is not known yet, or its sharding is not supported.
            MissingOptionError: levels were given by parameter, but not for this parameter.
        """
        check_weight(name, param)
        if self._own_levels and not param.is_meta and param not in self._own_levels:
            raise MissingOptionError(f"a level for {name!r}", "the dict of levels by parameter")

    @outside_inference_mode()
    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter: add a mask buffer to its module and hooks to its gradient.

        Args:
            module: the module that owns the parameter, or one of its parents.
            name: full name; its last part is the parameter's name in its module.
            param: the parameter, any shape.

        Raises:
            AttachError: `param` is not in `module`, cannot have a mask, or matches no filter.
            ShapeError: its shape does not fit the structure.
        """
        owner, param_name = find_owner(module, name, param)
        rule, dense = self if self.is_single else self._pick(name, param), dense_form(owner, param)
        rule.check_parameter(name, dense)
        check_fits_in(module, rule, owner, param_name, name, dense)
        # Keep the name, as `load_state_dict(assign=True)` and `to_empty` replace the tensor.
        level = rule._own_levels.get(param, "sparsity")
        parameter = attach_parameter(self.session, rule, owner, param_name, name)
        rule._level_names[parameter.name] = level
        self.session.before_forward(module, self.initialize)

    def _pick(self, name: str, param: Tensor) -> SparsityAlgorithm:
        """Return the first algorithm whose filter matches a parameter."""
        for param_filter, algorithm in self._routes:
            if param_filter(name, param):
                return algorithm
        raise AttachError(name, f"it matches no filter of the {type(self).__name__}")

    def sparsify_optimizer(self, optimizer: Optimizer) -> None:
        """Follow an optimizer, so that `update(optimizer)` runs after each of its steps."""
        if not self.algorithms:
            warn(f"the {type(self).__name__} is empty, so nothing is sparsified")
            return
        if self.session.follow_optimizer(optimizer, self.algorithms):
            self.session.after_state_change()
        else:
            warn("the optimizer was already sparsified; this call changes nothing")

    @outside_inference_mode()
    def initialize(self) -> None:
        """Compute the missing masks, prune the weights, and add hooks to the gradients."""
        initialize(self.session, self.algorithms)

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        """Return the mask before the first step: the init method at the level of step 0."""
        self.set_levels(0)
        level = self.level_at(parameter, 0)
        try:
            return call_init_method(
                self.init_method,
                parameter.param,
                level,
                score_shaper=parameter.structure,
                device=parameter.param.device,
                generator=make_generator(self.seed, parameter.name, 0),
                name=parameter.name,
            )
        except ScoreError as error:
            raise ScoreError(f"{error.what} of {parameter.name}") from None

    @outside_inference_mode()
    def remove(self, optimizer: Optimizer | None = None) -> None:
        """Remove all hooks, buffers and attributes from the model and its optimizers.

        The weights keep their zeros and continue to train as dense weights. `step` and the
        schedules keep their values, so a later `apply` continues from there.

        Args:
            optimizer: only stop following this optimizer, for example after replacing it.

        Raises:
            AttachError: the optimizer is not followed.
        """
        if optimizer is None:
            for name in self.sparse_params:
                self._level_names.pop(name, None)
            self.session.remove(self.algorithms)
        else:
            self.session.remove_optimizer(optimizer, self.algorithms)

    attached = attached
    """Context manager: `with sparsity.attached(model, optimizer):` is sparse inside the block."""

    @abstractmethod
    def update(self, optimizer: Optimizer | None = None) -> None:
        """Run the work after an optimizer step; call it yourself only if `autoupdate` is False.

        Args:
            optimizer: the optimizer that stepped; None means that all parameters were stepped.
        """

    def schedule_of(self, parameter: SparseParameter) -> str:
        """Return the name of the schedule for a parameter's level."""
        return self._level_names.get(parameter.name, "sparsity")

    def set_levels(self, step: int) -> None:
        """Divide the level of a step among the parameters, for an update of their masks."""
        if not self.distribution.is_uniform:
            self._levels.set(self.schedules.value("sparsity", step), self._own_parameters)

    def level_at(self, parameter: SparseParameter, step: int) -> Tensor:
        """Return the level of a parameter at a step, 0..1, as a 0-d tensor."""
        asked = self.schedules.value(self.schedule_of(parameter), step)
        return self._levels.of(parameter, asked, self._own_parameters)

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the steps among `0..until` at which masks are made or changed, ascending.

        If step 0 is among them, masks are made before the first step and training starts sparse.
        """
        return [0]

    @property
    def planned_steps(self) -> int | None:
        """Return the run length, in steps, that the updates imply; None if it has no limit."""
        return None

    def _is_due(self, step: int) -> bool:
        """Return whether masks change at a step."""
        return False

    def prune_weight(self, sparse_param: SparseParameter) -> None:
        """Set a weight to zero where its mask is False."""
        sparse_param.prune()

    def _grad_hook(self, p: Tensor, grad: Tensor) -> Tensor:
        """Prune a gradient after it was accumulated.

        Args:
            p: the weight.
            grad: its gradient, with the same shape.

        Returns:
            The pruned gradient.
        """
        parameter = self.session.find(p)
        if parameter is not None:
            parameter.storage.prune_gradient(grad)
        return grad

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Record the smallest, largest and last level on a sparse parameter, as capacity hints.

        Annotates `min_sparsity`, `max_sparsity` and `sparsity` (the last level), each 0..1.
        Annotates nothing if the level is a function of the step and updates never end.
        """
        bounds = param.rule.level_bounds(param)
        for name, value in zip(("min_sparsity", "max_sparsity", "sparsity"), bounds, strict=False):
            param.annotate(name, value)

    def level_bounds(self, parameter: SparseParameter) -> Sequence[float]:
        """Return the smallest, largest and last level of a parameter; empty if unknown."""
        asked = self.schedules.min_max_end(self.schedule_of(parameter), *self._level_steps())
        return self._levels.bounds(parameter, asked, self._own_parameters)

    def _level_steps(self) -> tuple[int, int | None]:
        """Return the first and last step that use a level; the last is None if there is none."""
        return 0, 0

    __repr__ = describe
    _repr_html_ = describe_html
