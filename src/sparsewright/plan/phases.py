"""Compute a training step's FLOPs and memory, for the dense model and for each phase of a run."""

from __future__ import annotations

from collections.abc import Callable

from sparsewright.plan.contents import Plan, Weight
from sparsewright.plan.costs import Precision, held_bytes, step_flops
from sparsewright.storage import CompressedStorage
from sparsewright.storage.storage import Footprint

_START, _END = 0, 1  # indices into `Weight.kept`
Cost = Callable[[Weight], float]


def flops_of_steps(plan: Plan) -> dict[str, float]:
    """Return the FLOPs of a training step in each phase.

    A sparse weight's FLOPs are scaled by its density, as for a kernel that skips zeros, although
    the library multiplies masked weights in full. For a compressed weight, the layer kind gives the
    FLOPs. A storage that also trains pruned connections needs the dense gradient in every step.
    """
    counted = [weight for weight in plan.weights if weight.name in plan.flops]

    def flops(weight: Weight, share: float, needs_gradient: bool = False) -> float:
        forward, is_frozen = plan.flops[weight.name], weight.is_frozen
        return step_flops(forward, share, is_frozen=is_frozen, needs_dense_gradient=needs_gradient)

    def sparse(weight: Weight, phase: int, is_update: bool = False) -> float:
        is_dense = weight.storage is not None and weight.storage.trains_pruned
        is_dense |= is_update and _needs_dense_gradient(weight)
        return flops(weight, _share(weight, phase), is_dense)

    def total(cost: Cost) -> float:
        return sum(map(cost, counted), step_flops(plan.flops.get("", 0), 1.0))

    return _phases(
        plan,
        dense=lambda: total(lambda w: flops(w, 1.0)),
        sparse=lambda phase: total(lambda w: sparse(w, phase)),
        update=lambda: total(lambda w: sparse(w, _END, is_update=True)),
    )


def bytes_of_steps(plan: Plan) -> dict[str, float]:
    """Return the bytes of weights, gradients, optimizer state, masks and indices in each phase.

    Activations are not counted. A sparse weight's storage reports its footprint. During an update,
    the dense gradients of all weights exist at the same time.
    """
    dense = [weight for weight in plan.weights if weight.entry is None and not weight.tied_to]

    def held(weight: Weight, footprint: Footprint) -> float:
        precision, is_frozen = Precision.of(weight.dtype), weight.is_frozen
        return held_bytes(footprint, precision, plan.states, is_frozen=is_frozen).total

    def whole(weight: Weight) -> float:
        return held(weight, Footprint(weight.total, 0))

    def sparse(weight: Weight, phase: int) -> float:
        assert weight.storage is not None
        kept = _kept(weight, phase)
        return held(weight, weight.storage.footprint(weight.shape, kept, weight.dtype, weight.kind))

    def gradient(weight: Weight) -> float:
        is_made = _needs_dense_gradient(weight) and not weight.is_frozen
        # A compressed layer keeps its dense gradient as two factors.
        is_whole = weight.storage is not CompressedStorage
        return weight.total * weight.dtype.itemsize if is_made and is_whole else 0

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
    """Return the cost of each phase that occurs."""
    phases = {"dense": dense(), "start": sparse(_START)}
    if any(entry.forecast.updates for entry in plan.entries):
        phases["last update"] = update()
    return {**phases, "end": sparse(_END)}


def _needs_dense_gradient(weight: Weight) -> bool:
    """Return whether update steps need the dense gradient of a weight."""
    return weight.entry is not None and weight.entry.algorithm.needs_dense_gradient


def _share(weight: Weight, phase: int) -> float:
    """Return the FLOPs of a product with a sparse weight relative to the dense product."""
    kept, whole = _kept(weight, phase), max(1, weight.total)
    if weight.storage is not CompressedStorage or weight.kind is None:
        return kept / whole
    shape, dtype = weight.shape, weight.dtype
    return weight.kind.cost(shape, kept, dtype).flops / (2 * whole)


def _kept(weight: Weight, phase: int) -> int:
    """Return a weight's live connections.

    If the count is unknown, estimate it from the entry's level, or else assume a dense weight.
    """
    kept = weight.kept[phase]
    if kept is None and weight.entry is not None:
        among, known = weight.entry.total, weight.entry.kept[phase]
        kept = None if known is None else round(weight.total * known / max(1, among))
    return weight.total if kept is None else kept
