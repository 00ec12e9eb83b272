"""What a step costs under a plan: FLOPs and bytes, dense and in each phase of the run."""

from __future__ import annotations

from collections.abc import Callable

from sparsewright.plan.costs import Precision, held_bytes, index_bytes, step_flops
from sparsewright.plan.make_plan import Plan, Weight, needs_dense_gradient

_START, _END = 0, 1  # in `Weight.kept`
Cost = Callable[[Weight], float]


def flops_of_steps(plan: Plan) -> dict[str, float]:
    """FLOPs of a training step in each phase.

    A sparse weight counts with its density: what a kernel does that skips zeros. A masked weight
    is multiplied whole.
    """
    counted = [weight for weight in plan.weights if weight.name in plan.flops]

    def flops(weight: Weight, density: float, needs_gradient: bool = False) -> float:
        forward, is_frozen = plan.flops[weight.name], weight.is_frozen
        return step_flops(
            forward, density, is_frozen=is_frozen, needs_dense_gradient=needs_gradient
        )

    def total(cost: Cost) -> float:
        return sum(map(cost, counted), step_flops(plan.flops.get("", 0), 1.0))

    return _phases(
        plan,
        dense=lambda: total(lambda w: flops(w, 1.0)),
        sparse=lambda phase: total(lambda w: flops(w, _density(w, phase))),
        update=lambda: total(lambda w: flops(w, _density(w, _END), needs_dense_gradient(w))),
    )


def bytes_of_steps(plan: Plan) -> dict[str, float]:
    """Bytes of weights, gradients, optimizer state, masks and indices, in each phase.

    Activations are not counted. A mask is a byte an entry; a compressed weight stores live values
    and its index only; dense gradients of an update exist for all weights at once.
    """
    dense = [weight for weight in plan.weights if weight.entry is None and not weight.tied_to]

    def held(weight: Weight, entries: int, mask: int) -> float:
        precision = Precision.of(weight.dtype)
        return held_bytes(entries, mask, precision, plan.states, is_frozen=weight.is_frozen).total

    def whole(weight: Weight) -> float:
        return held(weight, weight.total, 0)

    def sparse(weight: Weight, phase: int) -> float:
        if not weight.is_compressed:
            return held(weight, weight.total, weight.total)
        kept = _kept(weight, phase)
        rows, cols = weight.shape
        return held(weight, kept, index_bytes(rows, cols, kept))

    def gradient(weight: Weight) -> float:
        is_made = needs_dense_gradient(weight) and not weight.is_frozen
        return weight.total * weight.dtype.itemsize if is_made and not weight.is_compressed else 0

    def total(cost: Cost) -> float:
        return float(sum(map(whole, dense)) + sum(map(cost, plan.sparse)))

    return _phases(
        plan,
        dense=lambda: total(whole),
        sparse=lambda phase: total(lambda w: sparse(w, phase)),
        update=lambda: total(lambda w: sparse(w, _END) + gradient(w)),
    )


def _phases(
    plan: Plan,
    dense: Callable[[], float],
    sparse: Callable[[int], float],
    update: Callable[[], float],
) -> dict[str, float]:
    """Cost by phase; phases that do not occur are left out."""
    phases = {"dense": dense(), "start": sparse(_START)}
    if any(entry.forecast.updates for entry in plan.entries):
        phases["last update"] = update()
    return {**phases, "end": sparse(_END)}


def _density(weight: Weight, phase: int) -> float:
    """Live share before the first step or after the last; dense weights are whole."""
    return _kept(weight, phase) / max(1, weight.total)


def _kept(weight: Weight, phase: int) -> int:
    """Live connections; all where it is not known."""
    kept = weight.kept[phase]
    return weight.total if kept is None else kept
