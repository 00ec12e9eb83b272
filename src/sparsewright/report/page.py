"""Write a report as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from html import escape
from pathlib import Path
from typing import Any

from sparsewright.errors import ReportError, needs
from sparsewright.report import charts, tables
from sparsewright.report.citations import cite
from sparsewright.report.exports import show
from sparsewright.report.pictures import take_pictures
from sparsewright.report.read import Run
from sparsewright.report.tables import Table

MOST_BYTES = 5_000_000
_ASSETS = Path(__file__).parent / "assets"
_CHOICES = {
    "metrics": "Validation metric",
    "level": "Value over steps",
    "bars": "Value per layer",
    "overlap": "Pair of runs",
    "costs": "Speed, time or memory",
}
_SCRIPTS = ("tabs.js", "tables.js", "charts.js", "decode.js", "viewer.js", "masks.js")


def make_page(runs: list[Run]) -> str:
    """Return the report on one or several runs as HTML.

    Raises:
        ReportError: there are so many runs or layers that the page would exceed `MOST_BYTES`.
        MissingPackageError: plotly is not installed (extra `report`).
    """
    plotly = _plotly()
    script = "\n".join((_ASSETS / name).read_text("utf-8") for name in _SCRIPTS)
    style = (_ASSETS / "report.css").read_text("utf-8")
    body, drawn = _body(runs)
    library = base64.b64encode(zlib.compress(plotly.encode(), 9)).decode()

    def page(masks: dict[str, Any]) -> str:
        data = {"figures": drawn, "masks": masks, "runs": [run.name for run in runs]}
        values = {
            "title": escape("Report of " + ", ".join(run.name for run in runs)),
            "script-hashes": f"{_hash(script)} {_hash(plotly)}",
            "style": style,
            "body": body,
            "data": embed(data),
            "library": library,
            "script": script,
        }
        parts = (_ASSETS / "page.html").read_text("utf-8").split("%%")
        # Odd parts are names. A value that contains "%%" is not expanded again.
        text = "".join(values[part] if i % 2 else part for i, part in enumerate(parts))
        # Lone surrogates, which names in a file can contain, are escaped.
        return text.encode("utf-8", "backslashreplace").decode()

    rest = MOST_BYTES - len(page({"layers": [], "payloads": []}).encode()) - 10_000
    pictures = take_pictures(runs, rest)
    text = page({"layers": pictures.layers, "payloads": pictures.payloads})
    size = len(text.encode())
    if size > MOST_BYTES:
        problem = f"the page would have {size:,} bytes, more than {MOST_BYTES:,}; choose fewer runs"
        raise ReportError([run.name for run in runs], problem)
    return text


def _plotly() -> str:
    with needs("a report in HTML (not csv, json or md)", "plotly", extra="report"):
        from plotly.offline import get_plotlyjs
    return str(get_plotlyjs())


def _hash(script: str) -> str:
    """Return the hash by which the page's Content-Security-Policy allows a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def embed(value: Any) -> str:
    """Return JSON that is safe inside a script element for any strings in the value.

    >>> embed("</script><!--")
    '"\\\\u003c/script\\\\u003e\\\\u003c!--"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _body(runs: list[Run]) -> tuple[str, dict[str, dict[str, charts.Figure]]]:
    """Return the page's tabs as HTML, and their figures as chart -> choice -> figure."""
    layers, overlap = tables.layer_table(runs), tables.overlap_table(runs)
    drawn = {
        "loss": {"Loss": charts.loss_figure(runs)},
        "metrics": charts.other_validation_figures(runs),
        "level": charts.step_figures(runs, costs=False),
        "bars": charts.bar_figures(layers, runs),
        "costs": charts.step_figures(runs, costs=True),
        "overlap": charts.overlap_figures(overlap),
    }
    for number, run in enumerate(runs):
        drawn[f"time{number}"] = charts.layer_figures(run, len(runs))
    filled = {key: {n: f for n, f in found.items() if f["data"]} for key, found in drawn.items()}
    drawn = {key: choices for key, choices in filled.items() if choices}
    tabs = [
        ("Overview", [_table(tables.summary_table(runs)), *_charts(drawn, "loss", "metrics")]),
        ("Layers", [*_charts(drawn, "bars"), _table(layers)]),
        ("Over time", [*_charts(drawn, "level"), *_over_time(runs, drawn)]),
        ("Masks", [(_ASSETS / "viewer.html").read_text("utf-8")]),
        ("Between runs", [*_charts(drawn, "overlap"), _overlap(overlap, runs)]),
        ("Speed and memory", [*_charts(drawn, "costs"), _costs(runs)]),
        ("About", [_about(runs)]),
    ]
    if len(runs) == 1:
        tabs = [tab for tab in tabs if tab[0] != "Between runs"]
    return _tabs(tabs, runs), drawn


def _tabs(tabs: list[tuple[str, list[str]]], runs: list[Run]) -> str:
    names = ", ".join(f"<b>{escape(run.name)}</b>" for run in runs)
    buttons = "".join(
        f'<button type="button" role="tab" id="tab{i}" aria-controls="panel{i}"'
        f' aria-selected="{"true" if i == 0 else "false"}" tabindex="{-1 if i else 0}">'
        f"{escape(title)}</button>"
        for i, (title, _) in enumerate(tabs)
    )
    panels = "".join(
        f'<section role="tabpanel" id="panel{i}" aria-labelledby="tab{i}" tabindex="0"'
        f"{' hidden' if i else ''}><h2>{escape(title)}</h2>{''.join(parts)}</section>"
        for i, (title, parts) in enumerate(tabs)
    )
    return (
        f"<header><h1>Sparse training report</h1><p>{names}</p></header>"
        f'<div role="tablist" aria-label="Sections of the report">{buttons}</div>'
        f"<main>{panels}</main>"
    )


def _charts(drawn: dict[str, Any], *names: str, title: str = "") -> list[str]:
    """Return placeholders for charts; a chart with several choices gets a select element."""
    parts = []
    for name in names:
        choices = drawn.get(name)
        if not choices:
            continue
        # Without a value attribute, the browser would use the text with collapsed spaces.
        options = "".join(
            f'<option value="{escape(choice)}">{escape(choice)}</option>' for choice in choices
        )
        shown = _CHOICES.get(name, f"{title}: value over steps")
        label = f'<label for="choose-{name}">{escape(shown)}</label>'
        select = f'<p>{label} <select id="choose-{name}">{options}</select></p>'
        heading = f"<h3>{escape(title)}</h3>" if title else ""
        parts.append(
            f'{heading}{select if len(choices) > 1 else ""}<figure class="chart" '
            f'data-chart="{name}"><div class="plot" role="group"></div><figcaption></figcaption>'
            "</figure>"
        )
    return parts


def _table(table: Table) -> str:
    """Return a table with sortable columns and exact values in its cells' attributes."""
    used = table.without_empty_columns()
    if not used.rows:
        return ""
    heads, rows = [], []
    for column in used.columns:
        kind = "text" if column.kind == "text" else "number"
        tip = f' title="{escape(column.help)}"' if column.help else ""
        heads.append(
            f'<th scope="col" class="{kind}" aria-sort="none">'
            f'<button type="button"{tip}>{escape(column.title)}</button></th>'
        )
    for row in used.rows:
        cells = []
        for column in used.columns:
            value = row.get(column.key)
            text = escape(show(value, column))
            if column.kind == "text":
                cells.append(f"<td>{text}</td>")
            else:
                sort = "" if value is None else f' data-value="{value}"'
                cells.append(f'<td class="number"{sort}>{text}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = [f"<b>{escape(c.title)}</b>: {escape(c.help)}" for c in used.columns if c.help]
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(used.title)}">'
        f"<table><caption>{escape(used.title)}</caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _over_time(runs: list[Run], drawn: dict[str, Any]) -> list[str]:
    parts = []
    for number, run in enumerate(runs):
        title = f"Layers of {run.name}" if len(runs) > 1 else "Layers"
        found = _charts(drawn, f"time{number}", title=title)
        none = f"<h3>{escape(title)}</h3><p>This run never updated its masks.</p>"
        parts += found or [none]
    return parts


def _overlap(table: Table, runs: list[Run]) -> str:
    if not table.rows:
        return "<p>The runs have no layers with the same name and shape.</p>"
    compared = tables.pairs(runs)
    whole = len(compared) == len(runs) * (len(runs) - 1) // 2
    text = f"With {len(runs)} runs, each run is compared only with the first run."
    return ("" if whole else f"<p>{text}</p>") + _table(table)


def _costs(runs: list[Run]) -> str:
    table = tables.speed_table(runs)
    has_memory = any(tables.is_memory(str(row["what"])) for row in table.rows)
    note = "" if has_memory else '<p class="note">These runs did not record their memory use.</p>'
    return _table(table) + note


def _about(runs: list[Run]) -> str:
    papers, others = cite(tables.papers(runs))
    items = [
        f"<li>{escape(p.method)}: {escape(p.authors)}, “{escape(p.title)}”, {p.year}, "
        f'<a href="{escape(p.url)}">arXiv:{escape(p.arxiv)}</a></li>'
        for p in papers
    ] + [f"<li>{escape(text)}</li>" for text in others]
    versions = _table(tables.versions_table(runs)) or "<p>These runs did not record versions.</p>"
    configs = [
        f"<h3>Configuration of {escape(run.name)}</h3>"
        f'<pre tabindex="0">{escape(run.config_text)}</pre>'
        for run in runs
    ]
    return f"<h3>Citations</h3><ul>{''.join(items)}</ul>{versions}{''.join(configs)}"
