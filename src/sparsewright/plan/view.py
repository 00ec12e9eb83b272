"""Print a plan in a terminal, or convert it to JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sparsewright.plan.contents import Entry, Kept, Plan, Weight
from sparsewright.plan.phases import (
    bytes_of_steps,
    flops_of_steps,
    inference_flops,
    relative_flops,
)
from sparsewright.storage import CompressedStorage, MaskedStorage

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_UNUSED = 10  # weights that the table of unused connections lists


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as values that JSON can hold."""
    return {
        "steps": plan.entries[0].forecast.steps,
        "entries": [_entry(plan, entry) for entry in plan.entries],
        "parameters": [_weight(plan, weight) for weight in plan.weights],
        "flops_per": plan.per,
        "flops": flops_of_steps(plan),
        "inference_flops": inference_flops(plan),
        "bytes": bytes_of_steps(plan),
        "optimizer_states": plan.states,
        "notes": plan.notes,
    }


def _entry(plan: Plan, entry: Entry) -> dict[str, Any]:
    forecast = entry.forecast
    return {
        "place": entry.place,
        "algorithm": repr(entry.algorithm),
        "storage": entry.algorithm.storage,
        "total": entry.total,
        "kept_at_start": entry.kept[0],
        "kept_at_end": entry.kept[1],
        "starts_sparse": forecast.starts_sparse,
        "updates": len(forecast.updates),
        "first_update": forecast.updates[0] if forecast.updates else None,
        "last_update": forecast.updates[-1] if forecast.updates else None,
        "level": forecast.level if entry.algorithm.distribution.uses_level else [],
        "relative_flops": relative_flops(plan, entry),
        "drop_fraction": forecast.drop_fraction,
    }


def _weight(plan: Plan, weight: Weight) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "total": weight.total,
        "entry": weight.entry and weight.entry.place,
        "stays_dense_because": weight.reason,
        "storage": weight.storage and weight.storage.name,
        "level_because": weight.why_level,
        "stays_masked_because": weight.why_masked,
        "compressed": weight.storage is CompressedStorage,
        "kept_at_start": weight.kept[0],
        "kept_at_end": weight.kept[1],
        "level_at_start": weight.levels[0],
        "level_at_end": weight.levels[1],
        "unused_at_start": weight.unused[0],
        "unused_at_end": weight.unused[1],
        "flops": plan.flops.get(weight.name),
    }


def print_plan(plan: Plan, *, shows_all: bool = False) -> None:
    """Print a plan on stdout.

    Args:
        plan: the plan.
        shows_all: True to list every dense vector (bias, norm) instead of their total.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)
    _print_weights(console, plan, shows_all)
    _print_unused(console, plan)
    blocks = _BLOCKS if _takes_blocks(console) else None
    for entry in plan.entries:
        console.print()
        _print_entry(console, plan, entry, blocks)
    console.print()
    _print_costs(console, plan)
    for note in plan.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _takes_blocks(console: Console) -> bool:
    """Return whether the console can show block characters."""
    is_unicode = console.encoding.lower().startswith("utf")
    return console.is_terminal and is_unicode and not os.environ.get("NO_COLOR")


def _print_weights(console: Console, plan: Plan, shows_all: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("parameter", "shape", "entry", "kept at start", "at end", "level", ""):
        is_number = heading in ("kept at start", "at end", "level")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    hidden = [w.total for w in plan.weights if _is_plain_vector(w) and not shows_all]
    for weight in plan.weights:
        if hidden and _is_plain_vector(weight):
            continue
        shape = "x".join(map(str, weight.shape))
        if weight.entry is None:
            table.add_row(weight.name, shape, "-", "", f"{weight.total:,}", "", weight.reason)
        else:
            counts = _kept(weight.kept, weight.total, weight.levels[1])
            table.add_row(weight.name, shape, weight.entry.place, *counts, _remark(weight))
    if hidden:
        name, total = f"{len(hidden):,} biases, norms, ...", f"{sum(hidden):,}"
        table.add_row(name, "", "-", "", total, "", "one-dimensional (list them with --all)")
    sparse = plan.kept(0), plan.kept(1)
    among = sum(weight.total for weight in plan.sparse)
    table.add_row("all sparse", "", "", *_kept(sparse, among), style="bold")
    # Tied parameters count once.
    others = sum(w.total for w in plan.weights if w.entry is None and not w.tied_to)
    start, end = (None if kept is None else kept + others for kept in sparse)
    table.add_row("all", "", "", *_kept((start, end), among + others), style="bold")
    console.print(table)


def _is_plain_vector(weight: Weight) -> bool:
    """Return whether a weight is dense and has fewer than two dimensions, like a bias or a norm."""
    return weight.entry is None and len(weight.shape) < 2 and not weight.tied_to


def _remark(weight: Weight) -> str:
    """Return why a sparse weight has its level, and its storage, for the table.

    A weight with the requested level is listed without a reason, and a weight that is masked as
    requested without its storage.
    """
    storage = weight.storage
    held = "" if storage is None or storage is MaskedStorage else storage.name
    if weight.why_masked:
        held = f"masked: {weight.why_masked}"
    return "; ".join(filter(None, [weight.why_level, held]))


def _kept(kept: Kept, total: int, asked: float | None = None) -> tuple[str, str, str]:
    """Return the counts and the level at the end; "~" marks a level with an unknown count."""
    start, end = ("?" if count is None else f"{count:,}" for count in kept)
    level = "?" if asked is None else f"~{asked:.4f}"
    if kept[1] is not None:
        level = f"{1 - kept[1] / max(1, total):.4f}"
    return start, end, level


def _print_unused(console: Console, plan: Plan) -> None:
    """Print the weights in which the structure prunes connections that the level allows."""
    found = []
    for weight in plan.sparse:
        (_, kept), (_, asked), (_, unused) = weight.kept, weight.levels, weight.unused
        if unused and asked is not None and kept is not None:
            level = 1 - kept / weight.total
            found.append((unused / (kept + unused), weight.name, asked, level, unused))
    if not found:
        return
    found.sort(key=lambda row: -row[0])
    table = Table(box=None, pad_edge=False)
    table.add_column("rounded down by the structure", overflow="fold")
    for heading in ("asked level", "level", "unused connections", ""):
        table.add_column(heading, justify="right")
    for share, name, asked, level, unused in found[:_MOST_UNUSED]:
        table.add_row(name, f"{asked:.4f}", f"{level:.4f}", f"{unused:,}", f"{share:.1%}")
    if len(found) > 1:
        more = len(found) - _MOST_UNUSED
        all_of_them = "all of these" if more <= 0 else f"these and {more:,} more"
        total = sum(row[-1] for row in found)
        share = total / sum(row[-1] / row[0] for row in found)
        table.add_row(all_of_them, "", "", f"{total:,}", f"{share:.1%}", style="bold")
    console.print()
    console.print(table)


def _print_entry(console: Console, plan: Plan, entry: Entry, blocks: str | None) -> None:
    forecast = entry.forecast
    console.print(f"{entry.place}: {entry.algorithm!r}", soft_wrap=True)
    console.print(f"  {_when(entry)}")
    if (costs := relative_flops(plan, entry)) is not None:
        training, inference = (f"{costs[key]:.1%}" for key in ("training", "inference"))
        console.print(f"  FLOPs    {training} of dense training, {inference} of dense inference")
    levels = [level for _, level in forecast.level]
    if entry.algorithm.distribution.uses_level:
        ends = f"{levels[0]:.3f} -> {levels[-1]:.3f}"
        console.print(f"  level    {chart(levels, 1.0, blocks)} {ends}")
    values = dict(forecast.drop_fraction)
    drops = [None if step is None else values.get(step, 1.0) for step in forecast.last_updates]
    if values:
        top = max(values.values())
        shown = list(values.values())
        ends = f"{shown[0]:.3f} -> {shown[-1]:.3f}"
        console.print(f"  drop     {chart(drops, top or 1.0, blocks)} {ends}")
    elif forecast.updates:
        marks = "".join(" " if drop is None else "|" for drop in drops)
        console.print(f"  updates  {marks}")
    width = len(levels) - len(str(forecast.steps)) - 1
    console.print(f"  step     0{'':{max(width, 1)}}{forecast.steps}")


def _when(entry: Entry) -> str:
    """Return a sentence that says when masks change."""
    forecast, start = entry.forecast, "dense" if entry.kept[0] == entry.total else "sparse"
    count = len(forecast.updates)
    if not count:
        return f"starts {start}; masks never change"
    plural = "s" if count > 1 else ""
    where = f"after step{plural} {forecast.updates[0]:,}"
    if count > 1:
        where += f" to {forecast.updates[-1]:,}"
    return f"starts {start}; has {count:,} mask update{plural}, {where}"


def chart(values: Sequence[float | None], top: float, blocks: str | None) -> str:
    """Draw one character per value: a block, or a digit that counts tenths of `top`.

    None becomes a space.

    >>> chart([0.0, 0.5, None, 1.0], 1.0, None), chart([0.0, 0.5, 1.0], 1.0, "▁▂▃▄▅▆▇█")
    ('05 9', '▁▅█')
    """
    signs = blocks or "0123456789"
    most = len(signs) - 1
    return "".join(
        " " if value is None else signs[min(most, int(value / top * len(signs) + 1e-6))]
        for value in values
    )


def _print_costs(console: Console, plan: Plan) -> None:
    """Print FLOPs and memory, each also as a percentage of the dense network's."""
    flops, memory, inference = flops_of_steps(plan), bytes_of_steps(plan), inference_flops(plan)
    table = Table(box=None, pad_edge=False)
    table.add_column("training step")
    table.add_column(f"FLOPs, {plan.per}", justify="right")
    table.add_column("", justify="right")
    table.add_column("memory (no activations)", justify="right")
    table.add_column("", justify="right")
    labels = {"dense": "dense network", "mean": "mean over the run"}
    for phase in flops:
        costs = [_flops(flops[phase]), _share(flops[phase], flops["dense"])]
        if phase in memory:
            costs.append(_scaled(memory[phase], 1024, ("B", "KiB", "MiB", "GiB", "TiB")))
            costs.append(_share(memory[phase], memory["dense"]))
        table.add_row(labels.get(phase, phase), *costs)
    console.print(table)
    dense, end = inference["dense"], inference["end"]
    console.print(
        f"Inference takes {_flops(end).strip()} FLOPs after training, {_share(end, dense)} of the "
        f"dense network's {_flops(dense).strip()}."
    )
    console.print("FLOPs are multiplications and additions, for kernels that skip zeros.")
    console.print("Masked weights are multiplied in full.")
    states = f"{plan.states} optimizer state{'' if plan.states == 1 else 's'} per weight"
    console.print(f"Memory counts weights, gradients, {states}, masks, indices and shadow copies.")


def _flops(number: float) -> str:
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P"))


def _share(number: float, whole: float) -> str:
    return f"{number / (whole or 1):.1%}"


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    """Format a number with three digits and a unit.

    >>> [_scaled(n, 1000, ("", "k", "M")) for n in (999.4, 999_600, 1_234_000)]
    ['999 ', '1 M', '1.23 M']
    >>> [_scaled(n, 1024, ("B", "KiB", "MiB")) for n in (999.7, 1023.4 * 1024, 1023.6 * 1024)]
    ['1000 B', '1023 KiB', '1 MiB']
    """
    for unit in units:
        text = f"{number:.3g}" if number < 999.5 else f"{number:.0f}"
        if float(text) < base or unit == units[-1]:
            break
        number /= base
    return f"{text} {unit}"
