"""Draw the loss against the level for each distribution and each structure.

    python benchmarks/choices_picture.py

Reads what `choices.py` measured, and writes `docs/assets/choices-light.svg` and `-dark.svg`. The
upper row shows the language model and the lower row LeNet.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import choices
import picture
from choices_tables import Found

RECIPES = {"charlm": "validation loss, language model", "fashion": "test loss, LeNet-300-100"}
PANELS = {
    "GMP, distributions": ("distributions", "gmp"),
    "GMP, structures": ("structures", "gmp"),
    "RigL, structures": ("structures", "rigl"),
}
MARKERS = "osD^v<"
POINTS = "*PX"
TICKS = (0.5, *choices.LEVELS)


def curve(found, part, method, choice):
    """Return the levels of a choice, and the mean and standard deviation of its loss at each."""
    levels = [x for p, m, c, x in found.cases if (p, m, c) == (part, method, choice)]
    losses = [[float(r["loss"]) for r in found.cases[part, method, choice, x]] for x in levels]
    spreads = [statistics.stdev(loss) if len(loss) > 1 else 0.0 for loss in losses]
    return levels, [statistics.mean(loss) for loss in losses], spreads


def draw_panel(axes, found, part, method, look):
    """Draw a line for each choice; a choice with one level is a point."""
    names = list(dict.fromkeys(c for p, m, c, _ in found.cases if (p, m) == (part, method)))
    lines = [name for name in names if len(curve(found, part, method, name)[0]) > 1]
    points = [name for name in names if name not in lines]
    for name in names:
        levels, means, spreads = curve(found, part, method, name)
        if name in lines:
            index = lines.index(name)
            style = {"marker": MARKERS[index], "color": look["lines"][index], "markersize": 4}
        else:
            marker = POINTS[points.index(name)]
            style = {"marker": marker, "color": look["ink"], "markersize": 6, "linestyle": ""}
        axes.errorbar([1 - x for x in levels], means, spreads, label=name, linewidth=1.2, **style)
    dense = curve(found, "dense", "", "")[1][0]
    axes.axhline(dense, color=look["ink"], linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(0.6 if part == "structures" else 0.23, 0.017)
    axes.xaxis.minorticks_off()
    for kind in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        kind("{x:.1f}")
    axes.grid(color=look["grid"], linewidth=0.5, which="both")
    axes.patch.set_alpha(0)


def draw(found, theme, path):
    """Draw one theme of the picture.

    Args:
        found: the finished runs, by recipe.
        theme: a key of `picture.THEMES`.
        path: where the SVG goes.
    """
    with picture.themed(theme) as (pyplot, look):
        figure, rows = pyplot.subplots(
            len(found), len(PANELS), figsize=(10.4, 6.4), sharex="col", sharey="row", squeeze=False
        )
        for row, (recipe, runs) in zip(rows, found.items(), strict=True):
            for axes, (part, method) in zip(row, PANELS.values(), strict=True):
                draw_panel(axes, runs, part, method, look)
            row[0].set_ylabel(RECIPES[recipe])
        for column, title, (part, _) in zip(rows.T, PANELS, PANELS.values(), strict=True):
            shown = [x for x in TICKS if x in runs.levels(part)]
            column[-1].set_xticks([1 - x for x in shown], [f"{100 * x:g}" for x in shown])
            column[-1].set_xlabel("sparsity (%)")
            column[0].set_title(title)
        for column in rows.T[:2]:  # the third has the lines of the second
            column[0].legend(frameon=False, fontsize=8, loc="upper left")
        figure.tight_layout()
        picture.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=picture.FOLDER)
    args = parser.parse_args()
    found = {recipe: Found(choices.read(f"choices-{recipe}"), recipe) for recipe in RECIPES}
    args.out.mkdir(parents=True, exist_ok=True)
    for theme in picture.THEMES:
        draw(found, theme, args.out / f"choices-{theme}.svg")


if __name__ == "__main__":
    main()
