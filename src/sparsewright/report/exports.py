"""Export a report's tables as CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from sparsewright.report import tables
from sparsewright.report.citations import cite
from sparsewright.report.read import Run
from sparsewright.report.tables import Column, Table


def show(value: Any, column: Column) -> str:
    """Format the value of a table cell for display.

    >>> show(0.90004, Column("s", "s", "share")), show(1234567, Column("n", "n"))
    ('90.00%', '1,234,567')
    >>> show(None, Column("n", "n")), show(2.33532, Column("x", "x", "number"))
    ('-', '2.335')
    """
    if value is None:
        return "-"
    if column.kind == "share":
        return f"{value:.2%}"
    if column.kind == "count" or (column.kind == "number" and abs(value) >= 10_000):
        return f"{value:,.0f}"
    return f"{value:.4g}" if column.kind == "number" else str(value)


def to_csv(runs: list[Run]) -> str:
    """Return the layer table of all runs as CSV, with unrounded numbers."""
    table = tables.layer_table(runs)
    file = io.StringIO()
    keys = ["run"] + [column.key for column in table.columns if column.key != "run"]
    writer = csv.DictWriter(file, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return file.getvalue()


def to_markdown(runs: list[Run]) -> str:
    """Return the report's tables and citations as Markdown."""
    found = [tables.summary_table(runs), tables.layer_table(runs)]
    if len(runs) > 1:
        found.append(tables.overlap_table(runs))
    found += [tables.speed_table(runs), tables.versions_table(runs)]
    parts = [_markdown(table.without_empty_columns()) for table in found if table.rows]
    papers, others = cite(tables.papers(runs))
    lines = [f"- {x.method}: {x.authors}, “{x.title}”, {x.year}, <{x.url}>" for x in papers]
    lines += [f"- {_cell(text)}" for text in others]
    return "\n".join([*parts, "## Citations\n", *lines, ""])


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    head = line([_cell(column.title) for column in table.columns])
    rule = "|" + "|".join("---" if c.kind == "text" else "---:" for c in table.columns) + "|"
    body = [line([_cell(show(row.get(c.key), c)) for c in table.columns]) for row in table.rows]
    return "\n".join([f"## {table.title}\n", head, rule, *body, ""])


def _cell(text: str) -> str:
    """Escape text so that Markdown shows it unchanged in one table cell."""
    for mark in "\\|`*_<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def to_json(runs: list[Run]) -> str:
    """Return the whole report except the mask pictures as JSON."""
    papers, others = cite(tables.papers(runs))
    content = {
        "runs": tables.summary_table(runs).rows,
        "layers": tables.layer_table(runs).rows,
        "overlap_between_runs": tables.overlap_table(runs).rows,
        "speed_and_memory": tables.speed_table(runs).rows,
        "citations": [asdict(paper) for paper in papers],
        "without_paper": others,
        "details": {
            run.name: {
                "config": run.config_text,
                "versions": run.versions,
                "steps": run.metrics.steps,
                "validation": run.metrics.validation,
                "mask_updates": [line for x in run.metrics.updates.values() for line in x],
            }
            for run in runs
        },
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
