"""Compute a training step's FLOPs and memory, for the dense model and for each phase of a run."""

from __future__ import annotations

from collections.abc import Callable

from sparsewright.plan.contents import Entry, Plan, Weight
from sparsewright.plan.costs import Precision, held_bytes, step_flops
from sparsewright.storage import CompressedStorage
from sparsewright.storage.storage import Footprint

_START, _END = 0, 1  # indices into `Weight.estimate`
Cost = Callable[[Weight], float]


def flops_of_steps(plan: Plan) -> dict[str, float]:
    """Return the FLOPs of a training step in each phase, and their mean over the run.

    A sparse weight's FLOPs are scaled by its density, as for a kernel that skips zeros, although
    the library multiplies masked weights in full. For a compressed weight, the layer kind gives the
    FLOPs. A storage that also trains pruned connections needs the dense gradient in every step.

    The last update includes the scores of the structure's units. Like the formulas in papers, the
    mean does not.
    """
    counted = [weight for weight in plan.weights if weight.name in plan.flops]

    def total(cost: Cost) -> float:
        return sum(map(cost, counted), step_flops(plan.flops.get("", 0), 1.0))

    phases = _phases(
        plan,
        dense=lambda: total(lambda w: _flops(plan, w, w.total)),
        sparse=lambda phase: total(lambda w: _flops(plan, w, w.estimate[phase])),
        update=lambda: total(
            lambda w: _flops(plan, w, w.estimate[_END], is_update=True) + _selection_flops(w)
        ),
    )
    return {**phases, "mean": total(lambda w: _mean_flops(plan, w))}


def inference_flops(plan: Plan) -> dict[str, float]:
    """Return the FLOPs of a forward pass of the dense network and of the trained network."""
    shares = {w.name: _share(w, w.estimate[_END]) for w in plan.weights}
    trained = sum(flops * shares.get(name, 1.0) for name, flops in plan.flops.items())
    return {"dense": float(sum(plan.flops.values())), "end": trained}


def relative_flops(plan: Plan, entry: Entry) -> dict[str, float] | None:
    """Return the FLOPs of an entry's weights relative to dense weights; None without any FLOPs.

    The training FLOPs are the mean over the steps of the run. With f_S and f_D the inference FLOPs
    of sparse and of dense weights, a dense step takes 3 f_D, and a sparse step 3 f_S. If it needs
    the dense gradient, it takes 2 f_S + f_D. With a mask update in every (dT + 1)-th step, RigL
    takes (3 f_S dT + 2 f_S + f_D) / (dT + 1) on average. A pruned weight has the inference FLOPs
    f_S = (1 - level) f_D.

    Returns:
        The entries `training` and `inference`, the latter at the end of the run.

    Source: U. Evci et al., "Rigging the lottery: making all tickets winners", arXiv:1911.11134,
    appendix.
    """
    own = [w for w in plan.weights if w.entry is entry and plan.flops.get(w.name)]
    if not own:
        return None
    dense = sum(_flops(plan, w, w.total) for w in own)
    forward = sum(plan.flops[w.name] for w in own)
    return {
        "training": sum(_mean_flops(plan, w) for w in own) / dense,
        "inference": sum(plan.flops[w.name] * _share(w, w.estimate[_END]) for w in own) / forward,
    }


def _flops(plan: Plan, weight: Weight, kept: int, *, is_update: bool = False) -> float:
    """Return the FLOPs of one weight in a training step with `kept` live connections."""
    share = 1.0 if kept == weight.total else _share(weight, kept)
    is_dense = weight.storage is not None and weight.storage.trains_pruned
    is_dense |= is_update and _needs_dense_gradient(weight)
    return step_flops(
        plan.flops[weight.name], share, is_frozen=weight.is_frozen, needs_dense_gradient=is_dense
    )


def _mean_flops(plan: Plan, weight: Weight) -> float:
    """Return the mean FLOPs of one weight over the training steps of the run."""
    if weight.entry is None:
        return _flops(plan, weight, weight.total)
    forecast, total = weight.entry.forecast, 0.0
    for stretch, kept in zip(forecast.stretches, weight.course, strict=True):
        total += (stretch.steps - stretch.updates) * _flops(plan, weight, kept)
        total += stretch.updates * _flops(plan, weight, kept, is_update=True)
    return total / forecast.steps


def _selection_flops(weight: Weight) -> int:
    """Return the FLOPs of the scores of a structure's units in one mask update."""
    selections = weight.entry.algorithm.selections if weight.entry is not None else ()
    return len(selections) * weight.score_flops


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
        kept = weight.estimate[phase]
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


def _share(weight: Weight, kept: int) -> float:
    """Return the FLOPs of a product with a sparse weight relative to the dense product."""
    whole = max(1, weight.total)
    if weight.storage is not CompressedStorage or weight.kind is None:
        return kept / whole
    return weight.kind.cost(weight.shape, kept, weight.dtype).flops / (2 * whole)
