"""Test in a real browser how the page shows structured masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.report_pages import SIZES, open_tab, show
from helpers.report_runs import WrittenRun, random_masks, write_run
from sparsewright.report.command import write_report


def structured(tmp_path: Path, small: Any, size: tuple[int, int], structure: str) -> WrittenRun:
    """Write a report about one mask whose units all have the given size."""
    mask = np.repeat(np.repeat(small, size[0], axis=0), size[1], axis=1)
    choices = {"fc.weight": {"structure": structure}}
    run = write_run(tmp_path / "run", {0: {"fc.weight": mask}}, choices=choices)
    write_report([run.path], "html", None)
    return run


def pixels(page: Any, places: list[tuple[float, float]]) -> list[str]:
    """Return the colors of the mask's picture at places in connections (row, column)."""
    return page.evaluate(
        """(places) => places.map(([row, column]) => {
            const corner = view.at(0, 0), ratio = window.devicePixelRatio;
            const x = (column - corner.x) * view.scale * ratio;
            const y = (row - corner.y) * view.scale * ratio;
            const copy = document.createElement("canvas"); // without warnings about many reads
            [copy.width, copy.height] = [1, 1];
            const context = copy.getContext("2d");
            context.drawImage(canvas, Math.floor(x), Math.floor(y), 1, 1, 0, 0, 1, 1);
            const { data } = context.getImageData(0, 0, 1, 1);
            return "#" + [...data].slice(0, 3).map((n) => n.toString(16).padStart(2, "0")).join("");
        })""",
        places,
    )


@pytest.mark.parametrize("page", SIZES, indirect=True)
@pytest.mark.parametrize(
    ("size", "structure", "text"),
    [
        ((16, 16), "Block((16, 16))", "Block((16, 16)): 1,024 of 4,096 blocks live."),
        ((8, 512), "Channel(axis=0)", "Channel(axis=0): 128 of 512 outputs live."),
    ],
)
def test_units_of_a_large_mask_stay_sharp(
    tmp_path: Path, page: Any, size: tuple[int, int], structure: str, text: str
) -> None:
    shape = (64, 64) if structure.startswith("Block") else (64, 1)
    small = random_masks({"fc": shape}, 0.75, 1)["fc"]
    run = structured(tmp_path, small, size, structure)
    show(page, run)
    open_tab(page, "Masks")
    page.wait_for_function("shown && view.images.length")
    page.wait_for_timeout(200)
    places = [
        ((row + 0.5) * size[0], (column + 0.5) * size[1])
        for row in range(3, shape[0], 7)
        for column in range(0, shape[1], 7)
    ]
    colors = {key: page.evaluate(f"color('{key}')") for key in ("full", "empty")}
    expected = [
        colors["full" if small[int(row // size[0]), int(column // size[1])] else "empty"]
        for row, column in places
    ]
    assert pixels(page, places) == expected
    legend = page.locator("#mask-legend").inner_text()
    assert text in legend
    assert "all connections" in legend


def test_lines_separate_the_groups_of_a_mask(tmp_path: Path, page: Any) -> None:
    small = np.tile([True, False, False, True], (32, 8))
    run = structured(tmp_path, small, (1, 1), "NM(2, 4)")
    show(page, run)
    open_tab(page, "Masks")
    page.wait_for_function("shown && view.images.length")
    page.wait_for_timeout(200)
    legend = page.locator("#mask-legend").inner_text()
    assert "NM(2, 4): 2 of 4 inputs live in all 256 groups. Lines separate its groups." in legend
    # The columns 3 and 4 are live on both sides of a line; 1 and 2 are pruned without one.
    at_line, inside, between = pixels(page, [(2.5, 4.0), (2.5, 3.5), (2.5, 2.0)])
    assert inside == page.evaluate("color('full')")
    assert between == page.evaluate("color('empty')")
    assert at_line not in (inside, between)
    page.evaluate("view.zoom(0.01)")
    page.set_viewport_size({"width": 200, "height": 300})
    page.evaluate("view.scale = 0.5; view.draw()")
    assert "Lines" not in page.locator("#mask-legend").inner_text()


def test_bars_show_the_target_next_to_the_sparsity(tmp_path: Path, page: Any) -> None:
    small = random_masks({"fc": (17, 1)}, 12 / 17, 1)["fc"]
    mask = {"fc.weight": np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)}
    choices = {"fc.weight": {"structure": "Block((4, 4))", "target": 0.7}}
    run = write_run(tmp_path / "run", {0: mask}, choices=choices)
    write_report([run.path], "html", None)
    show(page, run)
    open_tab(page, "Layers")
    page.wait_for_selector("[data-chart=bars] .legendtext")
    names = page.locator("[data-chart=bars] .legendtext").all_text_contents()
    assert names == ["sparsity", "target"]
    cells = page.locator("#panel1 tbody tr").first.locator("td").all_inner_texts()
    assert "70.59%" in cells
    assert "70.00%" in cells
    assert "5 of 17 blocks live" in cells
