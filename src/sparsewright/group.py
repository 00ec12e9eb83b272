"""A Group of several algorithms, each for its own parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.filters import FilterLike, make_param_filter
from sparsewright.errors import AttachError, OptionTypeError
from sparsewright.session.replicas import AUTO

__all__ = ["Group"]


class Group(SparsityAlgorithm):
    """Train different parameters with different algorithms, selected by filters.

    A Group is an ordered list of (filter, algorithm) pairs. Each parameter goes to the first
    algorithm whose filter matches it. All algorithms share the optimizers, step, hooks and
    settings of the Group.

    Args:
        groups: a mapping `{filter: algorithm}` or a list of pairs; `add` describes the filters.

    Raises:
        OptionTypeError: a filter or an algorithm has the wrong type.
    """

    def __init__(
        self,
        groups: Mapping[FilterLike, SparsityAlgorithm]
        | Sequence[tuple[FilterLike, SparsityAlgorithm]]
        | None = None,
    ) -> None:
        super().__init__(0)
        self._routes.clear()
        self._storage = None  # until it is set, each algorithm uses its own
        pairs = groups.items() if isinstance(groups, Mapping) else groups or ()
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise OptionTypeError("an entry of groups", pair, "a pair (filter, algorithm)")
            self.add(*pair)

    def add(self, filter: FilterLike, algorithm: SparsityAlgorithm) -> None:
        """Append a pair.

        Args:
            filter: a glob or a list of globs that must match the parameter's entire full name, or
                a function `(name, param) -> bool`.
            algorithm: any algorithm except a Group.

        Raises:
            OptionTypeError: the filter or the algorithm has the wrong type.
            AttachError: the algorithm was already applied without the Group.
        """
        if isinstance(algorithm, Group):
            advice = "Use extend() to add all algorithms of a Group."
            raise OptionTypeError("algorithm", algorithm, "a single algorithm", advice)
        if not isinstance(algorithm, SparsityAlgorithm):
            raise OptionTypeError("algorithm", algorithm, "a SparsityAlgorithm")
        param_filter = make_param_filter(filter)
        if all(algorithm is not own for own in self.algorithms):
            self._join(algorithm)
        self._routes.append((param_filter, algorithm))

    def _join(self, algorithm: SparsityAlgorithm) -> None:
        """Give an algorithm the session and the settings of the Group."""
        if not algorithm.session.is_empty:
            name = type(algorithm).__name__
            raise AttachError(name, "it was already applied; add it to the Group before apply")
        if self._storage is not None:
            algorithm.storage = self._storage
        algorithm.autoupdate = algorithm.autoupdate and self._autoupdate
        self.session.counter.merge(algorithm.session.counter.steps)
        if self.session.process_group == AUTO:
            self.session.process_group = algorithm.session.process_group
        algorithm.session = self.session

    def extend(self, group: Group) -> None:
        """Append all pairs of another Group.

        Raises:
            OptionTypeError: `group` is not a Group.
            AttachError: the other Group was already applied.
        """
        if not isinstance(group, Group):
            raise OptionTypeError("group", group, "a Group", "Use add() to add one algorithm.")
        for param_filter, algorithm in list(group._routes):
            self.add(param_filter, algorithm)

    def __getitem__(self, index: int) -> SparsityAlgorithm:
        return self._routes[index][1]

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[SparsityAlgorithm]:
        return (algorithm for _, algorithm in self._routes)

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Update every algorithm.

        Args:
            optimizer: the optimizer that stepped; None means that all parameters were stepped.
        """
        with self.session.stepping(optimizer, self.algorithms) as step:
            for algorithm in step.rules:
                algorithm.update(optimizer)
