"""Figures for Plotly as plain dicts; the page sets colors and fonts."""

from __future__ import annotations

from typing import Any

from sparsewright.report.read import Run
from sparsewright.report.run_metrics import number_keys
from sparsewright.report.series import curve, grid, on_grid
from sparsewright.report.tables import Table, is_memory, is_speed, is_time

Figure = dict[str, Any]
_CURVE_POINTS = 4_000  # points in one figure
_LAYER_NUMBERS = 60_000  # values in all figures by layer together
_MOST_LINES = 8  # more layers than this are drawn as a heat map

# key of an update -> (heading, True for shares, True for interval means and False for last values)
OVER_TIME = {
    "computed": ("Sparsity", True, False),
    "target": ("Target of the sparsity", True, False),
    "churn": ("Churn: (dropped + grown) / kept", True, True),
    "overlap": ("Overlap with the previous mask (Jaccard)", True, True),
    "never_grown_rows": ("Never-grown rows", False, False),
    "dead_rows": ("Dead rows", False, False),
}


def loss_figure(runs: list[Run]) -> Figure:
    """Draw the training and validation loss of all runs; lines of dense baselines are dashed."""
    keys = {"loss": "solid", "dense_loss": "dash"}
    most = _CURVE_POINTS // (2 * len(runs))
    data, width = [], 1
    for color, run in enumerate(runs):
        label = f"{run.name}: " if len(runs) > 1 else ""
        for key, dash in keys.items():
            name = f"{label}{'dense baseline' if key == 'dense_loss' else 'sparse'}"
            steps, values, each = curve(run.metrics.steps, key, most)
            width = max(width, each)
            # With one run, the baseline gets its own color; otherwise it has its run's color.
            index = color if len(runs) > 1 else list(keys).index(key)
            if values:
                data.append(_line(f"{name}, training", steps, values, index, dash=dash))
            steps, values, _ = curve(run.metrics.validation, key, most)
            if values:
                trace = _line(f"{name}, validation", steps, values, index, dash=dash)
                symbol = "circle" if key == "loss" else "circle-open"
                data.append(trace | {"mode": "markers", "marker": {"size": 9, "symbol": symbol}})
    note = f"Each point is the mean of {width} steps." if width > 1 else ""
    return _figure(data, "loss (nats)", note=note)


def other_validation_figures(runs: list[Run]) -> dict[str, Figure]:
    """Draw the validation metrics other than the loss, such as accuracy."""
    keys = number_keys([line for run in runs for line in run.metrics.validation])
    names = [k for k in keys if k.removeprefix("dense_") != "loss" and not k.startswith("dense_")]
    figures = {}
    for name in names:
        data = []
        for color, run in enumerate(runs):
            for key, dash in ((name, "solid"), (f"dense_{name}", "dash")):
                steps, values, _ = curve(run.metrics.validation, key, 500)
                title = run.name if dash == "solid" else f"{run.name}: dense baseline"
                index = color if len(runs) > 1 or dash == "solid" else 1
                if values:
                    data.append(_line(title, steps, values, index, dash, "lines+markers"))
        figures[name.replace("_", " ")] = _figure(data, name.replace("_", " "))
    return figures


def step_figures(runs: list[Run], *, costs: bool) -> dict[str, Figure]:
    """Draw one figure for each value, other than the losses, that the steps logged.

    Args:
        runs: all runs of the report.
        costs: True for speed, time and memory; False for all other values, such as the sparsity.
    """
    figures = {}
    for key in number_keys([line for run in runs for line in run.metrics.steps]):
        is_cost = is_speed(key) or is_time(key) or is_memory(key)
        if is_cost != costs or key in ("loss", "dense_loss"):
            continue
        data, width = [], 1
        for color, run in enumerate(runs):
            steps, values, each = curve(run.metrics.steps, key, _CURVE_POINTS // 8 // len(runs))
            width = max(width, each)
            if values:
                data.append(_line(run.name, steps, values, color))
        name = "sparsity of all sparse layers" if key == "level" else key.replace("_", " ")
        note = f"Each point is the mean of {width} steps." if width > 1 else ""
        shares = key == "level"
        figures[name] = _figure(data, name, shares=shares, note=note)
    return figures


def layer_figures(run: Run, runs: int) -> dict[str, Figure]:
    """Draw the layers over the update steps, as lines for few layers or a heat map for many."""
    updates = {name: run.metrics.updates.get(name, []) for name in run.layers}
    most = max(8, min(200, _LAYER_NUMBERS // (len(OVER_TIME) * len(run.layers) * runs)))
    steps = grid(list(updates.values()), most)
    figures = {}
    for key, (title, shares, mean) in OVER_TIME.items():
        rows = {name: on_grid(x, key, steps, mean=mean) for name, x in updates.items()}
        if not any(value is not None for values in rows.values() for value in values):
            continue
        if len(rows) > _MOST_LINES:
            figures[title] = _heatmap(rows, steps, shares)
        else:
            lines = [_line(n, steps, v, i) for i, (n, v) in enumerate(rows.items())]
            figures[title] = _figure(lines, title, shares=shares)
    return figures


def bar_figures(table: Table, runs: list[Run]) -> dict[str, Figure]:
    """Draw the columns of the layer table as bars."""
    figures = {}
    # The sparsity comes first, because the page shows the first figure by default.
    for column in sorted(table.columns, key=lambda c: c.key != "sparsity"):
        values = [row for row in table.rows if row.get(column.key) is not None]
        if column.kind == "text" or column.key in ("total", "target") or not values:
            continue
        data = []
        for color, run in enumerate(runs):
            rows = [row for row in values if row["run"] == run.name]
            numbers = [round(row[column.key], 6) for row in rows]
            data.append(_bar(run.name, [row["layer"] for row in rows], numbers, color))
        if column.key == "sparsity" and len(runs) == 1 and any(row.get("unused") for row in values):
            data[0]["name"] = "sparsity"
            targets = [row["target"] for row in values]
            data.append(_bar("target", [row["layer"] for row in values], targets, 1))
        figures[column.title] = _bars(data, column.title, shares=column.kind == "share")
    return figures


def overlap_figures(table: Table) -> dict[str, Figure]:
    """Draw the mask overlap of each pair of runs as bars, next to the overlap of random masks."""
    figures = {}
    for pair in dict.fromkeys((row["run"], row["other"]) for row in table.rows):
        rows = [row for row in table.rows if (row["run"], row["other"]) == pair]
        names = [row["layer"] for row in rows]
        data = [
            _bar(title, names, [round(row[key], 6) for row in rows], color)
            for color, (key, title) in enumerate(
                (("jaccard", "overlap"), ("chance", "random masks"))
            )
        ]
        figures[f"{pair[0]} and {pair[1]}"] = _bars(data, "Jaccard index", shares=True)
    return figures


def _line(
    name: str, x: list[int], y: list[Any], color: int, dash: str = "solid", mode: str = ""
) -> dict[str, Any]:
    mode = mode or ("lines+markers" if len(x) < 30 else "lines")
    line = {"dash": dash, "width": 1.75}
    return {"type": "scatter", "name": name, "x": x, "y": y, "mode": mode, "line": line, "c": color}


def _bar(name: str, layers: list[str], values: list[float], color: int) -> dict[str, Any]:
    return {"type": "bar", "orientation": "h", "name": name, "x": values, "y": layers, "c": color}


def _figure(data: list[Any], title: str, *, shares: bool = False, note: str = "") -> Figure:
    axis = {"title": title, "tickformat": ".3~%"} if shares else {"title": title}
    return {"data": data, "x": {"title": "optimizer step"}, "y": axis, "note": note}


def _bars(data: list[Any], title: str, *, shares: bool) -> Figure:
    axis = {"title": title, "tickformat": ".3~%"} if shares else {"title": title}
    rows = max(len(trace["y"]) for trace in data)
    height = 110 + rows * (10 + 12 * len(data))
    return {"data": data, "x": axis, "y": {"layers": True}, "height": height, "note": ""}


def _heatmap(rows: dict[str, list[Any]], steps: list[int], shares: bool) -> Figure:
    trace = {"type": "heatmap", "x": steps, "y": list(rows), "z": list(rows.values())}
    bar = {"tickformat": ".3~%"} if shares else {}
    height = 120 + 16 * len(rows)
    data = [trace | {"colorbar": bar}]
    x = {"title": "optimizer step"}
    return {"data": data, "x": x, "y": {"layers": True}, "height": height, "note": ""}
