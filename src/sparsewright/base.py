"""The base of every sparsity algorithm."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
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
    """Makes weights of a model sparse, and keeps them so while an optimizer trains it.

    ::

        sparsity.apply(model)          # masks on the weights
        sparsity.apply(optimizer)      # follows its steps; the loop stays as it is

    Args:
        sparsity: fraction pruned, 0..1: a number, a schedule, a dict `{"type": ...}`, a list
            (cycling), a function of the step, or a mapping `{parameter: any of these}`. Scheduled
            values are clamped to 0..1. None: the level of the structure, if it has only one.
        init_method: `"random"`, `"topk"`, `"from_zeros"`, `"checkerboard"` or a function
            `(p, sparsity, score_shaper=None, device=None) -> bool mask`.
        seed: seed of the algorithm's own randomness, which is keyed by (seed, parameter, step).
        storage: how weights are held: `"masked"`, `"compressed"` (`apply` compresses where it can)
            or `"shadowed"` (the optimizer trains dense weights, all others see them pruned); None:
            as the Group says, else the algorithm's own.
        distribution: which weight gets which level: a name such as `"erk"`, a dict
            `{"type": ...}` or `{"layers": {glob: level}}`, a function `(shapes, level) -> levels`.
        structure: which entries of a weight stand or fall together: `"2:4"`, a dict
            `{"type": ...}`, a `Structure` or a score shaper; None: each entry by itself.
        unknown: any other keyword is an error.

    Attributes:
        name: what configurations call it.
        paper: where it comes from, such as `"arXiv:1911.11134"`; "" if it needs no source.
        needs_dense_gradient: whether updates read the gradient of pruned connections too.
        selections: for estimates of cost, the entries (`"all"`, `"live"`, `"pruned"`) that each
            selection of a mask update chooses from, and what it ranks them by (`"weight"`,
            `"gradient"`, `"random"`).
        session: what holds all that is on models and optimizers; a Group's algorithms share one.
        init_method: the function that makes the first mask.
        seed: the seed.
        schedules: by name, the schedules that move, and are saved, with the run.

    Raises:
        LevelError: a level outside 0..1, or one that the structure cannot hold.
        OptionError, OptionTypeError: an option that is not understood, or does not go with others.
        UnknownOptionError: a keyword that is not an option, with the nearest that is.
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
        """The distinct algorithms of a Group, in order; any other algorithm is its own only one."""
        return list({id(algorithm): algorithm for _, algorithm in self._routes}.values())

    @property
    def is_single(self) -> bool:
        """Whether it decides masks itself; a Group leaves that to its algorithms."""
        return len(self._routes) == 1 and self._routes[0][1] is self

    @property
    def sparsity(self) -> Mapping[Tensor, HyperParameterSchedule]:
        """Parameter -> schedule of its level.

        Raises:
            AttachError: of a Group, which has no level of its own; index it.
        """
        if not self.is_single:
            name = type(self).__name__
            raise AttachError(
                f"sparsity of a {name}", "each algorithm has its own; use group[i].sparsity"
            )
        return {p.param: self.schedules[self.schedule_of(p)] for p in self.sparse_params.values()}

    def apply(self, obj: nn.Module | Optimizer, replace: bool = False) -> None:
        """Sparsify a module or an optimizer.

        A module's masks are computed at once. An optimizer may come before or after the module,
        and there may be several; each steps its own parameters. With master weights, sparsify the
        module that the optimizer steps; working copies are sparse automatically.

        A model that has masks already, such as a copy of a sparse one, keeps them: a higher level
        prunes them further by magnitude, a lower one that is constant grows them.

        Args:
            obj: the module or the optimizer.
            replace: take any other algorithm off the module first; its masks stay.

        Raises:
            OptionTypeError: neither a Module nor an Optimizer.
            AttachError: a parameter that cannot have a mask, or that another algorithm has.
        """
        self._gather()
        if isinstance(obj, nn.Module):
            options = {"replace": True} if replace else {}  # a subclass need not know of it
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
        """Take algorithms back that another Group has taken over and does not use.

        Raises:
            AttachError: another Group has applied one of them.
        """
        if not self.is_single:
            for algorithm in self.algorithms:
                if algorithm.session is not self.session and algorithm.is_attached:
                    name = type(algorithm).__name__
                    raise AttachError(name, "another Group that holds it was applied")
                algorithm.session = self.session

    def __call__(self, obj: nn.Module | Optimizer) -> None:
        """Let `model.apply(sparsity)` do the same as `sparsity.apply(model)`.

        `nn.Module.apply` calls this for every submodule, children first; all visits but that of
        the module it was called on are ignored.
        """
        if not isinstance(obj, nn.Module) or root_of_apply(self, obj) is obj:
            self.apply(obj)

    def sparsify_module(self, module: nn.Module, replace: bool = False) -> None:
        """Attach each parameter below `module` to the first algorithm whose filter picks it.

        An algorithm that is not in a Group picks by `default_sparse_param_filter`. Under that
        filter the roles of weights count first: embeddings and what is tied to them, norms, output
        heads, vectors of any shape, frozen weights, routers and adapters stay dense; and so does a
        weight that the option `structure` does not fit.

        Args:
            module: the module.
            replace: take any other algorithm off it first; its masks stay.
        """
        attach_routed(self.session, module, self._routes, replace)
        self.session.before_forward(module, self.initialize)

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise if a parameter cannot be sparsified; called before anything is attached.

        Args:
            name: full name.
            param: the parameter, any shape.

        Raises:
            AttachError: its shape is not known yet, or it is sharded in a way not supported.
            MissingOptionError: the levels were given by parameter, and it is not among them.
        """
        check_weight(name, param)
        if self._own_levels and not param.is_meta and param not in self._own_levels:
            raise MissingOptionError(f"a level for {name!r}", "the dict of levels by parameter")

    @outside_inference_mode()
    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter: a mask buffer on its module, hooks on its gradient.

        Args:
            module: the module that owns the parameter, or one above it.
            name: full name; its last part is the parameter's name in its module.
            param: the parameter, any shape.

        Raises:
            AttachError: `param` is not in `module`, or cannot have a mask; or, of a Group, no
                filter picks it.
            ShapeError: the structure does not fit its shape.
        """
        owner, param_name = find_owner(module, name, param)
        rule, dense = self if self.is_single else self._pick(name, param), dense_form(owner, param)
        rule.check_parameter(name, dense)
        check_fits_in(module, rule, owner, param_name, name, dense)
        # By name: `load_state_dict(assign=True)` and `to_empty` put another tensor in its place.
        level = rule._own_levels.get(param, "sparsity")
        parameter = attach_parameter(self.session, rule, owner, param_name, name)
        rule._level_names[parameter.name] = level
        self.session.before_forward(module, self.initialize)

    def _pick(self, name: str, param: Tensor) -> SparsityAlgorithm:
        """The first algorithm whose filter picks a parameter."""
        for param_filter, algorithm in self._routes:
            if param_filter(name, param):
                return algorithm
        raise AttachError(name, f"no filter of the {type(self).__name__} picks it")

    def sparsify_optimizer(self, optimizer: Optimizer) -> None:
        """Follow an optimizer: after each of its steps, `update(optimizer)` runs."""
        if not self.algorithms:
            warn(f"the {type(self).__name__} is empty; nothing is sparsified")
            return
        if self.session.follow_optimizer(optimizer, self.algorithms):
            self.session.after_state_change()
        else:
            warn("the optimizer was sparsified already; nothing changes")

    @outside_inference_mode()
    def initialize(self) -> None:
        """Compute the masks that are not there yet, prune the weights, and hook the gradients."""
        initialize(self.session, self.algorithms)
        for parameter in self.sparse_params.values():
            parameter.rule.csx_annotate_sparsity(parameter)

    def _make_mask(self, parameter: SparseParameter) -> Tensor:
        """The mask before the first step: the init method at the level of step 0."""
        try:
            return call_init_method(
                self.init_method,
                parameter.param,
                self.level_at(parameter, 0),
                score_shaper=parameter.structure,
                device=parameter.param.device,
                generator=make_generator(self.seed, parameter.name, 0),
            )
        except ScoreError as error:
            raise ScoreError(f"{error.what} of {parameter.name}") from None

    @outside_inference_mode()
    def remove(self, optimizer: Optimizer | None = None) -> None:
        """Take everything off the model and its optimizers: hooks, buffers, attributes.

        The weights keep their zeros, and train on as dense weights. `step` and the schedules stay
        as they are: what is applied afterwards continues from there.

        Args:
            optimizer: stop following this one only, such as one that another has replaced.

        Raises:
            AttachError: an optimizer that is not followed.
        """
        if optimizer is None:
            for name in self.sparse_params:
                self._level_names.pop(name, None)
            self.session.remove(self.algorithms)
        else:
            self.session.remove_optimizer(optimizer, self.algorithms)

    attached = attached
    """`with sparsity.attached(model, optimizer):` is sparse inside the block."""

    @abstractmethod
    def update(self, optimizer: Optimizer | None = None) -> None:
        """Do what follows an optimizer step; called by hand only if `autoupdate` is False.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
        """

    def schedule_of(self, parameter: SparseParameter) -> str:
        """Return the name of the schedule of a parameter's level."""
        return self._level_names.get(parameter.name, "sparsity")

    def level_at(self, parameter: SparseParameter, step: int) -> Tensor:
        """Return the level of a parameter at a step, 0..1; a 0-d tensor."""
        asked = self.schedules.value(self.schedule_of(parameter), step)
        return self._levels.of(parameter, asked, self._own_parameters)

    def update_steps(self, until: int) -> Sequence[int]:
        """Return the steps among `0..until` at which masks are made or changed, ascending.

        Step 0 is before the first step: training starts sparse if it is among them.
        """
        return [0]

    @property
    def planned_steps(self) -> int | None:
        """Length of a run that the updates are made for, in steps; None if nothing limits it."""
        return None

    def _own_parameters(self) -> Iterable[SparseParameter]:
        return self.sparse_params.values()

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
        parameter = self.session.find(p)
        if parameter is not None:
            parameter.storage.prune_gradient(grad)
        return grad

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Record the smallest, largest and last level on a sparse parameter, as capacity hints.

        Annotates `min_sparsity`, `max_sparsity` and `sparsity` (the last), each 0..1; nothing if
        the level has no formula (a function of the step) and there is no last update step.
        """
        names = "min_sparsity", "max_sparsity", "sparsity"
        for name, value in zip(names, param.rule.level_bounds(param), strict=False):
            param.annotate(name, value)

    def level_bounds(self, parameter: SparseParameter) -> Sequence[float]:
        """Return the smallest, largest and last level of a parameter; nothing if not known."""
        asked = self.schedules.min_max_end(self.schedule_of(parameter), *self._level_steps())
        return self._levels.bounds(parameter, asked, self._own_parameters)

    def _level_steps(self) -> tuple[int, int | None]:
        """First and last step at which a level is used; None: there is no last."""
        return 0, 0

    __repr__ = describe
    _repr_html_ = describe_html
