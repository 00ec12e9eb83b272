"""Tables of a report with unformatted numbers, which `exports` and `page` format."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

from sparsewright.report.mask_statistics import chance_jaccard, dead_rows, jaccard, num_unused
from sparsewright.report.read import Run
from sparsewright.report.run_metrics import is_number, number_keys

_CHOICES = ("distribution", "structure", "storage")
_ALL_PAIRS = 4  # with more runs, each is compared only with the first
_CHANCE = "Jaccard index at the expected overlap of random masks with the same numbers kept."


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: key of the column's cells in a row.
        title: heading.
        kind: "text", "count", "share" (0..1) or "number".
        help: explanation in a sentence; "" if the heading is enough.
    """

    key: str
    title: str
    kind: str = "count"
    help: str = ""


@dataclass(frozen=True)
class Table:
    """A table; a cell is None if its column does not apply to its row."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]

    def without_empty_columns(self) -> Table:
        """Return the table without the columns that are None in every row."""
        used = [c for c in self.columns if any(row.get(c.key) is not None for row in self.rows)]
        return Table(self.title, used, self.rows)


_LAYER_COLUMNS = [
    Column("run", "run", "text"),
    Column("layer", "layer", "text"),
    Column("algorithm", "method", "text"),
    Column("distribution", "distribution", "text"),
    Column("structure", "structure", "text"),
    Column("storage", "storage", "text"),
    Column("shape", "shape", "text"),
    Column("total", "weights"),
    Column("kept", "kept"),
    Column("sparsity", "sparsity", "share", "Pruned fraction in the last saved mask."),
    Column(
        "target",
        "target",
        "share",
        "Sparsity level that the schedule and the distribution set for the last saved mask.",
    ),
    Column("unused", "unused", help="Connections that the target allows but the last mask prunes."),
    Column("pattern", "pattern", "text", "Counts of the structure's units in the last mask."),
    Column("updates", "updates", help="Mask updates up to the last saved mask."),
    Column("churn", "mean churn", "share", "Mean of (dropped + grown) / kept over all updates."),
    Column("dropped", "dropped", help="Connections dropped in all updates together."),
    Column("grown", "grown", help="Connections grown in all updates together."),
    Column("dead_rows", "dead rows", help="Rows without a live connection in the last mask."),
    Column(
        "dead_columns", "dead columns", help="Columns without a live connection in the last mask."
    ),
    Column(
        "never_grown_rows", "never-grown rows", help="Rows in which no update grew a connection."
    ),
    Column(
        "since_first", "overlap with first", "share", "Jaccard index of the first and last masks."
    ),
]


def layer_table(runs: list[Run]) -> Table:
    """Return the table with one row for every sparse layer of every run."""
    columns = _LAYER_COLUMNS if len(runs) > 1 else _LAYER_COLUMNS[1:]
    rows = [_layer_row(run, name) for run in runs for name in run.layers]
    return Table("Layers", columns, rows)


def _layer_row(run: Run, name: str) -> dict[str, Any]:
    layer, updates = run.layers[name], run.metrics.updates.get(name, [])
    # A killed run has logged updates after its last checkpoint, without their masks.
    updates = [update for update in updates if update["step"] <= run.last_step]
    mask, kept = run.mask(name), run.kept(name)
    first = min(run.bits)
    last = updates[-1] if updates else {}
    both = run.shared(name, first, run, run.last_step)
    target, pattern = run.target(name), layer.pattern
    return {
        "run": run.name,
        "layer": name,
        "algorithm": layer.algorithm or None,
        **{choice: getattr(layer, choice) or None for choice in _CHOICES},
        "shape": "×".join(map(str, layer.shape)),
        "total": layer.total,
        "kept": kept,
        "sparsity": 1 - kept / layer.total,
        "target": target,
        "unused": num_unused(target, kept, layer.total) if pattern and target is not None else None,
        "pattern": _text(pattern.describe(mask)) if pattern else None,
        "updates": len(updates),
        "churn": statistics.fmean(u["churn"] for u in updates) if updates else None,
        "dropped": sum(u["dropped"] for u in updates) if updates else None,
        "grown": sum(u["grown"] for u in updates) if updates else None,
        "dead_rows": len(dead_rows(mask)),
        "dead_columns": len(dead_rows(mask.T)),
        "never_grown_rows": _number(last.get("never_grown_rows")),
        "since_first": jaccard(run.kept(name, first), kept, both) if first == 0 else None,
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> Any:
    return value if is_number(value) else None


def summary_table(runs: list[Run]) -> Table:
    """Return the table with one row for every run: settings, results and sparsity."""
    columns = [
        Column("run", "run", "text"),
        Column("recipe", "recipe", "text"),
        Column("methods", "methods", "text"),
        *(Column(choice, choice, "text") for choice in _CHOICES),
        Column("state", "state", "text"),
        Column("steps", "steps"),
    ]
    rows = []
    validation = number_keys([line for run in runs for line in run.metrics.validation])
    columns += [Column(f"last {key}", key.replace("_", " "), "number") for key in validation]
    for run in runs:
        kept = sum(run.kept(name) for name in run.layers)
        total = sum(layer.total for layer in run.layers.values())
        last = run.metrics.validation[-1] if run.metrics.validation else {}
        rows.append(
            {
                "run": run.name,
                "recipe": _text(run.config.get("recipe")),
                "methods": ", ".join(methods(run)) or None,
                **{choice: _joined(run, choice) for choice in _CHOICES},
                "state": "finished" if run.finished else "not finished",
                "steps": max([run.last_step, *(line["step"] for line in run.metrics.steps[-1:])]),
                **{f"last {key}": _number(last.get(key)) for key in validation},
                "layers": len(run.layers),
                "total": total,
                "kept": kept,
                "sparsity": 1 - kept / total,
                "target": run.total_target,
                "updates": len({u["step"] for x in run.metrics.updates.values() for u in x}),
                "weights_bytes": run.weights_bytes,
            }
        )
    columns += [
        Column("layers", "sparse layers"),
        Column("total", "weights in sparse layers"),
        Column("kept", "kept"),
        Column("sparsity", "sparsity", "share"),
        Column("target", "target", "share", "Sparsity that the levels of the layers add up to."),
        Column("updates", "mask updates"),
        Column("weights_bytes", "weights file, bytes"),
    ]
    return Table("Runs", columns, rows)


def _joined(run: Run, choice: str) -> str | None:
    """Return the distinct values of a choice in a run's layers, joined by commas."""
    found = dict.fromkeys(getattr(layer, choice) for layer in run.layers.values())
    return ", ".join(filter(None, found)) or None


def papers(runs: list[Run]) -> dict[str, str]:
    """Return the source of each method by its name; "" if no run records one."""
    named = {name: "" for run in runs for name in methods(run)}
    layers = (layer for run in runs for layer in run.layers.values())
    return named | {layer.algorithm: layer.paper for layer in layers if layer.paper}


def methods(run: Run) -> list[str]:
    """Return the names of a run's methods from its snapshots, or else from its configuration."""
    named = dict.fromkeys(x.algorithm for x in run.layers.values() if x.algorithm)
    return list(named) or list(dict.fromkeys(_configured(run.config.get("sparsity"))))


def _configured(section: Any) -> list[str]:
    entries = section if isinstance(section, list) else [section]
    found = [entry.get("algorithm") for entry in entries if isinstance(entry, dict)]
    return [name for name in found if isinstance(name, str)]


def is_speed(key: str) -> bool:
    """Return whether a key of a step's line is a speed."""
    return key.endswith("_per_second")


def is_time(key: str) -> bool:
    """Return whether a key of a step's line is a duration in seconds."""
    return not is_speed(key) and (key.endswith("seconds") or key == "step_time")


def is_memory(key: str) -> bool:
    """Return whether a key of a step's line is an amount of memory."""
    return any(word in key for word in ("memory", "bytes", "rss"))


def speed_table(runs: list[Run]) -> Table:
    """Return the median, percentiles and maximum of every logged speed, duration and memory."""
    rows = []
    for run in runs:
        for key in number_keys(run.metrics.steps):
            if not (is_speed(key) or is_time(key) or is_memory(key)):
                continue
            values = sorted(x[key] for x in run.metrics.steps if is_number(x.get(key)))
            rows.append(
                {
                    "run": run.name,
                    "what": key.replace("_", " "),
                    "median": statistics.median(values),
                    "low": values[len(values) // 10],
                    "high": values[-1 - len(values) // 10],
                    "most": values[-1],
                }
            )
    columns = [
        Column("run", "run", "text"),
        Column("what", "quantity", "text"),
        Column("median", "median", "number"),
        Column("low", "10th percentile", "number"),
        Column("high", "90th percentile", "number"),
        Column("most", "maximum", "number"),
    ]
    return Table("Speed and memory of training steps", columns, rows)


def pairs(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Return the pairs of runs to compare: all pairs of few runs, or else those with the first."""
    if len(runs) <= _ALL_PAIRS:
        return list(itertools.combinations(runs, 2))
    return [(runs[0], other) for other in runs[1:]]


def overlap_table(runs: list[Run]) -> Table:
    """Return the overlap of the last masks of two runs by layer, next to that of random masks."""
    columns = [
        Column("run", "run", "text"),
        Column("other", "other run", "text"),
        Column("layer", "layer", "text"),
        Column("total", "weights"),
        Column("kept", "kept"),
        Column("other_kept", "kept in other"),
        Column("both", "kept in both"),
        Column("jaccard", "overlap", "share", "Jaccard index (kept in both / kept in either)."),
        Column("chance", "overlap of random masks", "share", _CHANCE),
    ]
    rows = [
        _overlap_row(run, other, name)
        for run, other in pairs(runs)
        for name in run.layers
        if name in other.layers and run.layers[name].shape == other.layers[name].shape
    ]
    return Table("Overlap of the last masks between runs", columns, rows)


def _overlap_row(run: Run, other: Run, name: str) -> dict[str, Any]:
    total, kept, other_kept = run.layers[name].total, run.kept(name), other.kept(name)
    both = run.shared(name, run.last_step, other, other.last_step)
    return {
        "run": run.name,
        "other": other.name,
        "layer": name,
        "total": total,
        "kept": kept,
        "other_kept": other_kept,
        "both": both,
        "jaccard": jaccard(kept, other_kept, both),
        "chance": chance_jaccard(kept, other_kept, total),
    }


def versions_table(runs: list[Run]) -> Table:
    """Return the software versions of each run; each resume with other versions adds a row."""
    rows = [
        {"run": run.name, "from_step": entry["from_step"], **entry["versions"]}
        for run in runs
        for entry in run.versions
    ]
    names = dict.fromkeys(key for run in runs for e in run.versions for key in e["versions"])
    names.pop("run", None), names.pop("from_step", None)
    columns = [Column("run", "run", "text"), Column("from_step", "from step")]
    return Table("Versions", columns + [Column(n, n, "text") for n in names], rows)
