"""Tables on stdout for runs and weight files."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sparsewright.runs.layer_counts import Layer


def _stdout() -> Console:
    """Return the console for results; without a terminal it is wide enough for long names."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


def printable(text: str) -> str:
    """Escape the characters of a text that a terminal would interpret or cannot encode.

    >>> printable("a\\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def print_layers(layers: Sequence[Layer]) -> None:
    """Print the table of layers on stdout, with a total over the layers that have a mask."""
    masked = [layer for layer in layers if layer.masked] or layers
    updated = any(layer.churn is not None for layer in layers)
    remarks = any(layer.problem or not layer.masked for layer in layers)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for heading in ("kept", "total", "sparsity", *(["churn"] if updated else [])):
        table.add_column(heading, justify="right")
    if remarks:
        table.add_column("", overflow="fold")
    for layer in layers:
        churn = "-" if layer.churn is None else f"{layer.churn:.1%}"
        remark = layer.problem or ("" if layer.masked else "no mask; counted nonzeros")
        cells = [*([churn] if updated else []), *([remark] if remarks else [])]
        table.add_row(*_numbers(layer.name, layer.kept, layer.total), *cells)
    if masked:
        kept, total = sum(x.kept for x in masked), sum(x.total for x in masked)
        name = "all with a mask" if masked is not layers else "all"
        table.add_row(*_numbers(name, kept, total), style="bold")
    _stdout().print(table)


def _numbers(name: str, kept: int, total: int) -> tuple[str, str, str, str]:
    """Return the first four cells of a row."""
    return printable(name), f"{kept:,}", f"{total:,}", f"{1 - kept / total:.4f}"


def print_speeds(speeds: dict[str, float], unit: str) -> None:
    """Print the speed of forward plus backward for each storage on stdout."""
    shown = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    _stdout().print(f"{unit}/s, forward and backward: {shown}")


def print_validation(values: dict[str, float]) -> None:
    """Print the last evaluation on stdout: the sparse network next to its dense baseline."""
    has_dense = any(name.startswith("dense_") for name in values)
    table = Table(box=None, pad_edge=False)
    for heading in ("validation", "sparse", *(("dense", "difference") if has_dense else ())):
        table.add_column(heading, justify="left" if heading == "validation" else "right")
    for name, value in values.items():
        if not name.startswith("dense_"):
            cells = [name, f"{value:.4f}"]
            if has_dense:
                dense = values[f"dense_{name}"]
                cells += [f"{dense:.4f}", f"{value - dense:+.4f}"]
            table.add_row(*cells)
    _stdout().print(table)
