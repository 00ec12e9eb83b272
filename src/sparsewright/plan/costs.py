"""What a step costs under a plan: FLOPs and bytes, dense and in each phase of the run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sparsewright.plan.make_plan import Plan, Weight, needs_dense_gradient

# Index of a compressed weight, bytes per live value: column, and row and column blocks' entries.
_INDEX = 16


def flops_of_steps(plan: Plan) -> dict[str, float]:
    """FLOPs of a training step, `3 x forward`, in each phase.

    A sparse weight counts with its density: what a kernel does that skips zeros. A masked weight
    is multiplied whole. Where an update needs the dense gradient, the product that gives the
    weight's gradient is dense in that step; a frozen weight has none.
    """

    def whole(weight: Weight, density: float) -> float:
        return 2.0 if weight.is_frozen else 3.0

    def sparse(weight: Weight, density: float) -> float:
        return whole(weight, density) * density

    def update(weight: Weight, density: float) -> float:
        is_dense = needs_dense_gradient(weight) and not weight.is_frozen
        return 2.0 * density + 1.0 if is_dense else sparse(weight, density)

    return _phases(plan, lambda share, phase: _flops(plan, share, phase), whole, sparse, update)


def bytes_of_steps(plan: Plan) -> dict[str, float]:
    """Bytes of weights, gradients, optimizer state, masks and indices, in each phase.

    Activations are not counted. A mask is a byte an entry; a compressed weight stores live values
    and its index only; dense gradients of an update exist for all weights at once.
    """

    def whole(weight: Weight, density: float) -> float:
        return weight.total * _copies(plan, weight) * _size(weight)

    def sparse(weight: Weight, density: float) -> float:
        if weight.is_compressed:
            return weight.total * density * (_copies(plan, weight) * _size(weight) + _INDEX)
        return whole(weight, density) + weight.total

    def update(weight: Weight, density: float) -> float:
        is_made = needs_dense_gradient(weight) and not weight.is_frozen
        gradient = is_made and not weight.is_compressed
        return sparse(weight, density) + (weight.total * _size(weight) if gradient else 0)

    return _phases(plan, lambda share, phase: _bytes(plan, share, phase), whole, sparse, update)


Share = Callable[[Weight, float], float]


def _phases(
    plan: Plan, cost: Callable[[Share, int], float], whole: Share, sparse: Share, update: Share
) -> dict[str, float]:
    """Cost by phase; phases that do not occur are left out."""
    phases = {"dense": cost(whole, 0), "start": cost(sparse, 0)}
    if any(entry.forecast.updates for entry in plan.entries):
        phases["last update"] = cost(update, 1)
    return {**phases, "end": cost(sparse, 1)}


def _flops(plan: Plan, share: Share, phase: int) -> float:
    counted = [weight for weight in plan.weights if weight.name in plan.flops]
    shares = (plan.flops[w.name] * share(w, _density(w, phase)) for w in counted)
    return sum(shares, 3.0 * plan.flops.get("", 0))


def _bytes(plan: Plan, share: Share, phase: int) -> float:
    dense = [w for w in plan.weights if w.entry is None and not w.tied_to]
    total = float(sum(w.total * _copies(plan, w) * _size(w) for w in dense))
    return total + sum(share(weight, _density(weight, phase)) for weight in plan.sparse)


def _density(weight: Weight, phase: int) -> float:
    """Live share before the first step (0) or after the last (1); 1 where it is not known."""
    kept = weight.kept[phase]
    return 1.0 if kept is None else kept / max(1, weight.total)


def _copies(plan: Plan, weight: Weight) -> int:
    """Numbers kept for each entry: the weight, its gradient and the optimizer's state."""
    return 1 if weight.is_frozen else 2 + plan.states


def _size(weight: Weight) -> int:
    return torch.empty((), dtype=weight.dtype, device="meta").element_size()
