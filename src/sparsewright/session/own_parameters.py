"""Look-up of an algorithm's sparse parameters in its session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.errors import OptionTypeError
from sparsewright.session.moved import let_go_freed
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.session import Session


class OwnParameters(ABC):
    """Look up an algorithm's sparse parameters, or those of all algorithms in a Group."""

    session: Session

    @property
    @abstractmethod
    def algorithms(self) -> Sequence[object]:
        """Return a Group's distinct algorithms, in order; otherwise a list with the algorithm."""

    @property
    def sparse_params(self) -> Mapping[str, SparseParameter]:
        """Return the sparse parameters by full name."""
        by_rule: dict[int, list[SparseParameter]] = {}
        let_go_freed(self.session)
        for parameter in self.session.parameters.values():
            by_rule.setdefault(id(parameter.rule), []).append(parameter)
        own = (by_rule.get(id(algorithm), []) for algorithm in self.algorithms)
        return {parameter.name: parameter for parameters in own for parameter in parameters}

    def _own_parameters(self) -> Iterable[SparseParameter]:
        """Return the sparse parameters."""
        return self.sparse_params.values()

    @property
    def num_sparse_params(self) -> int:
        """Return the number of sparse parameters."""
        return len(self.sparse_params)

    @property
    def is_attached(self) -> bool:
        """Return whether the algorithm is applied to a model or an optimizer and not removed."""
        followed = (rule for f in self.session.followed for rule in f.rules)
        return bool(self.sparse_params) or any(map(self._has, followed))

    def _has(self, rule: object) -> bool:
        return any(rule is algorithm for algorithm in self.algorithms)

    def get_sparse_params(
        self, obj: Tensor | nn.Module | Optimizer
    ) -> SparseParameter | Iterator[SparseParameter] | None:
        """Return the sparse parameters of a tensor, module or optimizer.

        Args:
            obj: a tensor, a module or an optimizer.

        Returns:
            The sparse parameter of a tensor, or None if it has none. For a module or an optimizer,
            an iterator over its sparse parameters.

        Raises:
            OptionTypeError: `obj` has another type.
        """
        if isinstance(obj, Tensor):
            found = self.session.find(obj)
            return found if found is not None and self._has(found.rule) else None
        if isinstance(obj, nn.Module):
            params: Iterable[Tensor] = obj.parameters()
        elif isinstance(obj, Optimizer):
            params = (param for group in obj.param_groups for param in group["params"])
        else:
            raise OptionTypeError(
                "the argument of get_sparse_params", obj, "a Tensor, a Module or an Optimizer"
            )
        wanted = {id(param) for param in params}
        return (p for p in self.sparse_params.values() if id(p.param) in wanted)
