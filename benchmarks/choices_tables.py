"""Tables of the runs that `choices.py` measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from charlm import LOSS
from fashion import ACCURACY
from methods import Runs

METRICS = {"charlm": LOSS, "fashion": ACCURACY}
LAYERS = {
    "charlm": [*(f"{i} {name}" for i in (0, 1) for name in ("qkv", "proj", "up", "down")), "head"],
    "fashion": ["fc1", "fc2", "fc3"],
}
METHODS = {"gmp": "GMP", "rigl": "RigL"}
Row = dict[str, str]
Key = tuple[str, str, str, float]
"""Part, method, choice and level of a case, as in the columns of the rows."""


class Found:
    """The finished runs of one recipe.

    Attributes:
        metric: how values are shown.
        seeds: seeds that have finished every case.
        cases: the rows of these seeds by case, in the order of the file.
    """

    def __init__(self, rows: Iterable[Row], recipe: str) -> None:
        self.recipe, self.metric = recipe, METRICS[recipe]
        cases: dict[Key, dict[str, Row]] = defaultdict(dict)
        for row in rows:
            key = (row["part"], row["method"], row["choice"], float(row["level"]))
            cases[key][row["seed"]] = row
        self.seeds = sorted(set.intersection(*(set(found) for found in cases.values())), key=int)
        self.cases = {key: [found[s] for s in self.seeds] for key, found in cases.items()}

    def levels(self, part: str) -> list[float]:
        """Return the levels of a part, ascending."""
        return sorted({level for p, _, _, level in self.cases if p == part})

    def choices(self, part: str, method: str, level: float) -> list[str]:
        """Return the choices that were measured at a level, in the order of the file."""
        return [c for p, m, c, x in self.cases if (p, m, x) == (part, method, level)]

    def runs(self, part: str, method: str, choice: str, level: float) -> Runs:
        """Return the metric of each seed, in its displayed unit."""
        name, scale = self.metric.name, self.metric.scale
        rows = self.cases[part, method, choice, level]
        return [(scale * float(row[name]), float(row["cpu_s"])) for row in rows]

    def counts(self, key: Key, column: str) -> list[list[int]]:
        """Return the entries of each layer for each seed; the column is `kept` or `entries`."""
        return [[int(n) for n in row[column].split()] for row in self.cases[key]]


def grid(corner: str, heads: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table whose columns are aligned to the right."""
    rows = [f"| {corner} | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    rows += [f"| {name} | {' | '.join(cells)} |" for name, cells in lines]
    return "\n".join(rows)


def percent(value: float) -> str:
    """Return a level without trailing zeros: 80%, 97.5%."""
    return f"{round(100 * value, 1):g}%"


def by_level(
    found: Found, part: str, method: str, cell: Callable[[str, float], str], *, skip: int = 0
) -> list[tuple[str, list[str]]]:
    """Return one line for each choice and one cell for each level; leave out the first choices."""
    levels = found.levels("distributions")
    choices = found.choices(part, method, levels[0])[skip:]
    return [(choice, [cell(choice, level) for level in levels]) for choice in choices]


def values(found: Found, part: str, method: str) -> str:
    """Return the tables of a method: values, and differences from the first choice."""
    heads = [percent(level) for level in found.levels("distributions")]
    first = found.choices(part, method, found.levels("distributions")[0])[0]

    def value(choice: str, level: float) -> str:
        return found.metric.cell(found.runs(part, method, choice, level))

    def difference(choice: str, level: float) -> str:
        other = found.runs(part, method, first, level)
        return found.metric.difference(found.runs(part, method, choice, level), other)

    name = METHODS[method]
    corner = f"{found.metric.unit}, {name} minus {first}"
    return "\n\n".join(
        [
            grid(name, heads, by_level(found, part, method, value)),
            grid(corner, heads, by_level(found, part, method, difference, skip=1)),
        ]
    )


def own_levels(found: Found) -> str:
    """Return a table of the structures at levels that the distributions do not have."""
    own = sorted(set(found.levels("structures")) - set(found.levels("distributions")))
    lines = []
    for level in own:
        for choice in found.choices("structures", "gmp", level):
            cells = []
            for method in METHODS:
                runs = found.runs("structures", method, choice, level)
                other = found.runs("structures", method, "unstructured", level)
                is_other = choice == "unstructured"
                difference = "" if is_other else found.metric.difference(runs, other)
                cells += [found.metric.cell(runs), difference]
            lines.append((f"{choice}, {percent(level)}", cells))
    heads = [head for name in METHODS.values() for head in (name, "minus unstructured")]
    return grid(found.metric.unit, heads, lines)


def achieved(found: Found, method: str) -> str:
    """Return a table of the levels of the masks, and of layers without live entries."""

    def cell(choice: str, level: float) -> str:
        key = ("structures", method, choice, level)
        kept, entries = found.counts(key, "kept"), found.counts(key, "entries")
        actual = 1 - sum(map(sum, kept)) / sum(map(sum, entries))
        empty = statistics.mean(counts.count(0) for counts in kept)
        return f"{100 * actual:.2f}%" + (f", {empty:g} empty" if empty else "")

    heads = [percent(level) for level in found.levels("distributions")]
    return grid("level of the mask", heads, by_level(found, "structures", method, cell, skip=1))


def shares(found: Found, level: float) -> str:
    """Return a table of the live percentage of each layer under GMP, the mean over the seeds."""
    lines = []
    for choice in found.choices("distributions", "gmp", level):
        key = ("distributions", "gmp", choice, level)
        kept, entries = found.counts(key, "kept"), found.counts(key, "entries")
        means = [statistics.mean(counts) for counts in zip(*kept, strict=True)]
        sizes = zip(means, entries[0], strict=True)
        lines.append((choice, [f"{100 * mean / size:.2g}" for mean, size in sizes]))
    return grid(f"% live at {percent(level)}", LAYERS[found.recipe], lines)


def tables(rows: Iterable[Row], recipe: str) -> dict[str, str]:
    """Return the tables of the distributions and of the structures, by the name of the part."""
    found = Found(rows, recipe)
    if not found.seeds:
        return {}
    dense = found.metric.cell(found.runs("dense", "", "", 0.0))
    parts: dict[str, list[str]] = {
        part: [values(found, part, method) for method in METHODS]
        for part in ("distributions", "structures")
    }
    parts["distributions"].append(shares(found, found.levels("distributions")[-1]))
    parts["structures"] += [own_levels(found), achieved(found, "rigl")]
    heading = f"Dense: {dense}. Seeds: {len(found.seeds)}."
    return {part: "\n\n".join([heading, *texts]) for part, texts in parts.items()}
