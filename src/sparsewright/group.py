"""Several algorithms, each for its own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.errors import (
    AttachError,
    OptionTypeError,
    StateError,
    show,
    warn,
)
from sparsewright.core.filters import ParamFilter, make_param_filter, near_names, show_filter
from sparsewright.core.hooks import MaskUpdateHook, Removable, SparsityHook
from sparsewright.core.state_dicts import check_state, load_all
from sparsewright.runtime.attach import Attachment, attach_routed, next_name
from sparsewright.runtime.describe import group_html
from sparsewright.runtime.parameter import SparseParameter
from sparsewright.runtime.replicas import AUTO, check_process_group
from sparsewright.runtime.walk import named_weights

__all__ = ["Group"]


class Group(SparsityAlgorithm):
    """Ordered (filter, algorithm) pairs; a parameter goes to the first whose filter picks it.

    Args:
        groups: a mapping `{filter: algorithm}` or a list of pairs; see `add` for the filters.

    Raises:
        OptionTypeError: a filter or an algorithm of the wrong type.
    """

    def __init__(
        self,
        groups: Mapping[Any, SparsityAlgorithm]
        | Sequence[tuple[Any, SparsityAlgorithm]]
        | None = None,
    ) -> None:
        self._routes: list[tuple[ParamFilter, SparsityAlgorithm]] = []
        self._settings: dict[str, Any] = {}
        self._shared_hooks: list[_SharedHook] = []
        super().__init__(0)
        self._settings.clear()  # set by the user only
        pairs = groups.items() if isinstance(groups, Mapping) else groups or ()
        for param_filter, algorithm in pairs:
            self.add(param_filter, algorithm)

    def add(self, filter: Any, algorithm: SparsityAlgorithm) -> None:
        """Append a pair.

        Args:
            filter: a glob or a list of globs, matched against the whole full name, or a function
                `(name, param) -> bool`.
            algorithm: any algorithm but a Group.

        Raises:
            OptionTypeError: a filter or an algorithm of the wrong type.
        """
        if isinstance(algorithm, Group):
            raise OptionTypeError("algorithm", algorithm, "one algorithm; extend() adds a Group's")
        if not isinstance(algorithm, SparsityAlgorithm):
            raise OptionTypeError("algorithm", algorithm, "a SparsityAlgorithm")
        param_filter = make_param_filter(filter)
        if all(algorithm is not own for own in self.algorithms):
            self._adopt(algorithm)
        self._routes.append((param_filter, algorithm))

    def _adopt(self, algorithm: SparsityAlgorithm) -> None:
        """Give a new algorithm the settings and hooks that the Group was given before."""
        for name, value in self._settings.items():
            setattr(algorithm, name, value)
        for shared in self._shared_hooks:
            shared.add_to(algorithm)

    def extend(self, group: Group) -> None:
        """Append all pairs of another Group.

        Raises:
            OptionTypeError: not a Group.
        """
        if not isinstance(group, Group):
            raise OptionTypeError("group", group, "a Group; add() adds one algorithm")
        for param_filter, algorithm in list(group._routes):
            self.add(param_filter, algorithm)

    @property
    def algorithms(self) -> list[SparsityAlgorithm]:
        """The distinct algorithms, in order."""
        return list({id(algorithm): algorithm for _, algorithm in self._routes}.values())

    def __getitem__(self, index: int) -> SparsityAlgorithm:
        return self._routes[index][1]

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[SparsityAlgorithm]:
        return (algorithm for _, algorithm in self._routes)

    @property
    def sparsity(self) -> NoReturn:
        """Raises: a Group has no level of its own.

        Raises:
            AttachError: always; index the Group.
        """
        raise AttachError(
            "sparsity of a Group", "each algorithm has its own; use group[i].sparsity"
        )

    @property
    def sparse_params(self) -> Mapping[str, SparseParameter]:
        """Full name -> sparse parameter, of all algorithms."""
        merged: dict[str, SparseParameter] = {}
        for algorithm in self.algorithms:
            for name, parameter in algorithm.sparse_params.items():
                while name in merged:
                    name = next_name(name)
                merged[name] = parameter
        return merged

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return max((algorithm.step for algorithm in self.algorithms), default=0)

    @property
    def autoupdate(self) -> bool:
        """Call `update` after each step of a sparsified optimizer; setting it sets it for all."""
        return bool(self._common("autoupdate", True))

    @autoupdate.setter
    def autoupdate(self, value: bool) -> None:
        self._set_all("autoupdate", value)

    @property
    def storage(self) -> str:
        """How weights are stored, `"mixed"` if not alike; setting it sets it for all."""
        storages = {algorithm.storage for algorithm in self.algorithms}
        return "mixed" if len(storages) > 1 else str(self._common("storage", "masked"))

    @storage.setter
    def storage(self, value: str) -> None:
        self._set_all("storage", value)

    @property
    def process_group(self) -> Any:
        """The ranks that train replicas; setting it sets it for all algorithms."""
        return self._common("process_group", AUTO)

    @process_group.setter
    def process_group(self, group: Any) -> None:
        self._set_all("process_group", check_process_group(group))

    def _common(self, name: str, default: Any) -> Any:
        """A setting of the first algorithm; of an empty Group, what the next will get."""
        if self.algorithms:
            return getattr(self.algorithms[0], name)
        return self._settings.get(name, default)

    def _set_all(self, name: str, value: Any) -> None:
        self._settings[name] = value
        for algorithm in self.algorithms:
            setattr(algorithm, name, value)

    def get_sparse_params(
        self, obj: Tensor | nn.Module | Optimizer
    ) -> SparseParameter | Iterator[SparseParameter] | None:
        """Look up sparse parameters of all algorithms, as `SparsityAlgorithm` does its own."""
        if isinstance(obj, Tensor):
            return next((p for p in self.sparse_params.values() if p.param is obj), None)
        return super().get_sparse_params(obj)

    def sparsify_module(self, module: nn.Module) -> None:
        """Attach each parameter below `module` to the first algorithm whose filter picks it."""
        routes = [_Route(param_filter, algorithm) for param_filter, algorithm in self._routes]

        def route(name: str, param: Tensor) -> SparsityAlgorithm | None:
            return next((r.algorithm for r in routes if r.picks(name, param)), None)

        attach_routed(module, route)
        self._attachment.before_forward(module, self.initialize)
        names = [name for name, *_ in named_weights(module)]
        for r in routes:
            if not r.picked:
                near = near_names(r.filter, names)
                hint = f"; close names: {', '.join(near)}" if near else ""
                warn(f"the filter {r.filter!r} matched no parameter that it could take{hint}")

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter to the first algorithm whose filter picks it.

        Raises:
            AttachError: no filter picks it.
        """
        for param_filter, algorithm in self._routes:
            if param_filter(name, param):
                algorithm.sparsify_parameter(module, name, param)
                return
        raise AttachError(name, "no filter of the Group picks it")

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        """Let the algorithm that has the parameter record its levels."""
        for algorithm in self.algorithms:
            if any(own is param for own in algorithm.sparse_params.values()):
                algorithm.csx_annotate_sparsity(param)

    def initialize(self) -> None:
        """Compute the masks of all algorithms that are not there yet."""
        for algorithm in self.algorithms:
            algorithm.initialize()
        if all(p.is_initialized for p in self.sparse_params.values()):
            self._attachment.end_before_forward()

    def _attachments(self) -> list[Attachment]:
        return [self._attachment, *(algorithm._attachment for algorithm in self.algorithms)]

    def _compress(self, module: nn.Module) -> None:
        for algorithm in self.algorithms:
            algorithm._compress(module)

    def sparsify_optimizer(self, optimizer: Optimizer) -> None:
        """Every algorithm follows the optimizer."""
        if not self._routes:
            warn("the Group is empty; nothing is sparsified")
        for algorithm in self.algorithms:
            algorithm.sparsify_optimizer(optimizer)

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Update every algorithm."""
        for algorithm in self.algorithms:
            algorithm.update(optimizer)

    def prune_weight(self, sparse_param: SparseParameter) -> None:
        """Set the weight to zero where its mask is False."""
        sparse_param.prune()

    def remove(self, optimizer: Optimizer | None = None) -> None:
        """Take everything of all algorithms off again, or one optimizer only.

        Raises:
            AttachError: an optimizer that is not followed.
        """
        if optimizer is None:
            super().remove()
        for algorithm in self.algorithms:
            algorithm.remove(optimizer)

    def register_target_sparsity_hook(self, hook: SparsityHook) -> Removable:
        """Register with every algorithm; the handle removes all."""
        return self._register_all("register_target_sparsity_hook", hook)

    def register_computed_sparsity_hook(self, hook: SparsityHook) -> Removable:
        """Register with every algorithm; the handle removes all."""
        return self._register_all("register_computed_sparsity_hook", hook)

    def register_mask_update_hook(self, hook: MaskUpdateHook) -> Removable:
        """Register with every algorithm; the handle removes all."""
        return self._register_all("register_mask_update_hook", hook)

    def _register_all(self, register: str, hook: Callable[..., Any]) -> Removable:
        shared = _SharedHook(self._shared_hooks, register, hook)
        for algorithm in self.algorithms:
            shared.add_to(algorithm)
        return shared

    def visit_state(self, f: Callable[[Tensor], Tensor]) -> None:
        """Visit the state of every algorithm."""
        for algorithm in self.algorithms:
            algorithm.visit_state(f)

    def state_dict(self) -> dict[str, Any]:
        """The states of the algorithms, in order: `{"algorithm": "Group", "algorithms": [...]}`."""
        return {
            "algorithm": type(self).__name__,
            "algorithms": [algorithm.state_dict() for algorithm in self.algorithms],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            StateError: it is not the state of a Group of these algorithms; nothing is changed then.
        """
        own = self.state_dict()
        check_state("Group", state_dict, own)
        states = state_dict["algorithms"]
        if not isinstance(states, list):
            raise StateError("Group", f"algorithms must be a list, not {show(states)}")
        if len(states) != len(self.algorithms):
            raise StateError(
                "Group", f"it has {len(self.algorithms)} algorithms, the state {len(states)}"
            )
        load_all(self.algorithms, states)

    def __getstate__(self) -> dict[str, Any]:
        """As of any algorithm: a copy has no hooks."""
        return super().__getstate__() | {"_shared_hooks": []}

    def __repr__(self) -> str:
        pairs = (f"({show_filter(f)}, {algorithm!r})" for f, algorithm in self._routes)
        return f"Group([{', '.join(pairs)}])"

    def _repr_html_(self) -> str:
        return group_html(self, [(show_filter(f), repr(a)) for f, a in self._routes])


class _SharedHook:
    """A hook that every algorithm of a Group has, later ones too, until the handle is removed."""

    def __init__(self, all_of_group: list[_SharedHook], register: str, hook: Any) -> None:
        self._all, self._register, self._hook = all_of_group, register, hook
        self._handles: list[Removable] = []
        self._all.append(self)

    def add_to(self, algorithm: SparsityAlgorithm) -> None:
        """Register with one algorithm."""
        self._handles.append(getattr(algorithm, self._register)(self._hook))

    def remove(self) -> None:
        """Take it off all of them."""
        for handle in self._handles:
            handle.remove()
        if self in self._all:
            self._all.remove(self)


class _Route:
    """One pair while parameters are routed: remembers whether it picked any."""

    def __init__(self, filter: ParamFilter, algorithm: SparsityAlgorithm) -> None:
        self.filter, self.algorithm, self.picked = filter, algorithm, False

    def picks(self, name: str, param: Tensor) -> bool:
        """Whether the filter picks this parameter."""
        picks = bool(self.filter(name, param))
        self.picked |= picks
        return picks
