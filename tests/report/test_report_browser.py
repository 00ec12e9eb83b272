"""Test the page in a real browser: no errors, no network, control by keyboard and mouse."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.report_pages import SIZES, open_tab, show
from helpers.report_runs import WrittenRun, random_masks, write_run
from sparsewright.formats.mask_bits import pack_bits
from sparsewright.report.command import write_report
from sparsewright.report.mask_statistics import density

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (extra `dev`)"
)

EVIL = "<b></script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>.weight"
SHAPES = {"fc1.weight": (40, 30), "fc2.weight": (10, 40), "fc10.weight": (700, 300)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[WrittenRun]:
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for number, name in enumerate(("one", "<b>two")):
        masks = {step: random_masks(SHAPES, 0.8, step + number) for step in (0, 8, 16)}
        found.append(write_run(folder / name, masks))
    write_report([run.path for run in found], "html", None)
    return found


@pytest.mark.parametrize("page", SIZES, indirect=True, ids=["desktop-light", "phone-dark"])
def test_every_tab_is_drawn_and_fits(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    names = page.get_by_role("tab").all_inner_texts()
    assert names == [
        *("Overview", "Layers", "Over time", "Masks", "Between runs"),
        *("Speed and memory", "About"),
    ]
    charts = 0
    for name in names:
        open_tab(page, name)
        panel = page.get_by_role("tabpanel", name=name)
        wanted = panel.locator(".chart").count()
        playwright.expect(panel.locator(".chart[data-drawn] .main-svg").first).to_have_count(
            1 if wanted else 0
        )
        playwright.expect(panel.locator(".chart[data-drawn]")).to_have_count(wanted)
        charts += wanted
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        assert page.locator("[role=tabpanel]:visible").count() == 1
    assert charts == 7
    assert page.locator(".failed").count() == 0


def test_charts_are_not_uploaded_and_are_named(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    chart = page.locator("[data-chart=loss] [role=group]")
    playwright.expect(chart).to_have_attribute("aria-label", "Chart: Loss over optimizer steps")
    buttons = chart.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title)")
    assert "Zoom in" in buttons
    assert not [name for name in buttons if name.startswith(("Share", "Box", "Lasso"))]
    open_tab(page, "Layers")
    choice = page.get_by_role("combobox", name="Value per layer")
    choice.select_option("dead rows")
    playwright.expect(page.locator("[data-chart=bars] [role=group]")).to_have_attribute(
        "aria-label", "Chart: dead rows; the table lists the numbers"
    )
    open_tab(page, "Over time")
    assert page.get_by_role("combobox", name="Layers of <b>two: value over steps").count() == 1


def test_shares_above_one_are_inside_the_axis(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    assert page.evaluate("shareRange([0.2, null, 9])[1]") > 9
    assert page.evaluate("shareRange([0.2, null, 1])[1]") == 1.02


def test_printing_draws_all_charts(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    playwright.expect(page.locator(".chart[data-drawn]")).to_have_count(1)
    page.pdf()
    charts = page.locator(".chart")
    assert charts.count() == page.locator(".chart:has(.main-svg)").count() == 7
    assert page.locator("[hidden] .chart[data-drawn]").count() == 0  # to be redrawn on screen


def test_names_with_spaces(page: Any, tmp_path: Path) -> None:
    masks = random_masks({"fc": (9, 9)}, 0.5, 0)
    names = ("a  b", " c", "d ")
    runs = [write_run(tmp_path / name, {0: masks}).path for name in names]
    page.goto(write_report(runs, "html", tmp_path / "report.html").as_uri())
    open_tab(page, "Between runs")
    for pair in ("a  b and d ", " c and d "):
        page.locator("#choose-overlap").select_option(pair)
        chart = page.locator("[data-chart=overlap]")
        playwright.expect(chart).to_have_attribute("data-drawn", pair)


def test_tabs_by_keyboard(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    page.keyboard.press("Tab")
    for key, name in (
        ("ArrowRight", "Layers"), ("ArrowLeft", "Overview"), ("ArrowLeft", "About"),
        ("ArrowRight", "Overview"), ("End", "About"), ("Home", "Overview"),
    ):  # fmt: skip
        page.keyboard.press(key)
        chosen = page.locator("[role=tab][aria-selected=true]")
        assert chosen.all_inner_texts() == [name]
        assert page.evaluate("document.activeElement.textContent") == name
        assert page.locator("[role=tabpanel]:visible h2").all_inner_texts() == [name]
    assert page.locator("[role=tab][tabindex='0']").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2


def column(page: Any, table: Any, number: int) -> list[str]:
    return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()


def test_tables_sort_by_numbers_and_by_names(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    open_tab(page, "Layers")
    table = page.get_by_role("table", name="Layers")
    weights = table.get_by_role("columnheader", name="weights")
    weights.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert weights.get_attribute("aria-sort") == "ascending"
    assert column(page, table, 5) == ["400"] * 2 + ["1,200"] * 2 + ["210,000"] * 2
    page.keyboard.press("Enter")
    assert weights.get_attribute("aria-sort") == "descending"
    assert column(page, table, 5)[0] == "210,000"
    table.get_by_role("columnheader", name="grown", exact=True).get_by_role("button").click()
    grown = [int(text.replace(",", "")) for text in column(page, table, 12)]
    assert len(set(grown)) > 4  # some have equally many digits
    assert grown == sorted(grown)
    layer = table.get_by_role("columnheader", name="layer", exact=True)
    layer.get_by_role("button").click()
    assert weights.get_attribute("aria-sort") == "none"
    expected = [name for name in ("fc1.weight", "fc2.weight", "fc10.weight") for _ in "ab"]
    assert column(page, table, 2) == expected


def drawn(page: Any, places: list[tuple[int, int]]) -> list[bool]:
    """Return for connections whether the pixel in their middle has the color of live ones."""
    found: list[bool] = page.evaluate(
        """(places) => {
            const { width, height } = canvas;
            const copy = new OffscreenCanvas(width, height);
            copy.getContext("2d").drawImage(canvas, 0, 0);
            const { data } = copy.getContext("2d").getImageData(0, 0, width, height);
            const corner = view.at(0, 0);
            return places.map(([row, column]) => {
                const x = Math.floor((column + 0.5 - corner.x) * view.scale * devicePixelRatio);
                const y = Math.floor((row + 0.5 - corner.y) * view.scale * devicePixelRatio);
                const at = 4 * (y * width + x);
                return [...data.slice(at, at + 3)].join() === mix(1).join();
            });
        }""",
        places,
    )
    return found


def choose(page: Any, layer: str, step: int) -> None:
    """Show a mask, and wait until the page has drawn it."""
    page.locator("#mask-layer").select_option(label=layer)
    page.locator("#mask-step").select_option(label=str(step))
    name = layer.partition(": ")[2].partition(" (")[0]
    playwright.expect(page.locator("#mask-text")).to_contain_text(f"{name}, step {step}:")


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["phone-dark"])
def test_picture_shows_single_connections(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    open_tab(page, "Masks")
    choose(page, "one: fc1.weight (40×30)", 8)
    mask = runs[0].masks[8]["fc1.weight"]
    assert drawn(page, list(np.ndindex(40, 30))) == mask.reshape(-1).tolist()
    choose(page, "<b>two: fc10.weight (700×300)", 16)
    assert "zoom in" in page.locator("#mask-legend").inner_text()
    page.get_by_role("button", name="Single connections").click()
    mask = runs[1].masks[16]["fc10.weight"]
    near = [(350 + r, 150 + c) for r in range(-4, 5) for c in range(-4, 5)]
    assert drawn(page, near) == [mask[at] for at in near]
    assert "12.0 pixels per connection" in page.locator("#mask-text").inner_text()


def test_a_mask_without_a_picture_shows_nothing_of_another(
    page: Any, runs: list[WrittenRun]
) -> None:
    show(page, runs[0])
    open_tab(page, "Masks")
    choose(page, "one: fc1.weight (40×30)", 8)
    canvas = page.get_by_role("application", name="Picture of a mask")
    assert canvas.get_attribute("aria-describedby").split()[0] == "mask-text"
    page.evaluate("report.masks.layers[1].pictures.length = 0")
    page.locator("#mask-layer").select_option(index=1)
    text = "The mask of fc10.weight is left out to keep the report small."
    playwright.expect(page.locator("#mask-text")).to_have_text(text)
    assert page.locator("#mask-legend").inner_text() == ""


def test_picture_by_keyboard_and_wheel(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    open_tab(page, "Masks")
    choose(page, "one: fc1.weight (40×30)", 16)
    canvas, text = page.locator("#mask"), page.locator("#mask-text")
    canvas.focus()
    whole = text.inner_text()
    assert "rows 0 to 39 of 40, columns 0 to 29 of 30" in whole
    for _ in range(6):
        page.keyboard.press("+")
    zoomed = text.inner_text()
    assert "rows 0" not in zoomed
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    moved = text.inner_text()
    assert moved != zoomed
    page.keyboard.press("PageUp")
    playwright.expect(text).to_contain_text("step 8")
    assert text.inner_text() == moved.replace("step 16", "step 8")  # the view does not move
    page.keyboard.press("PageDown")
    playwright.expect(text).to_contain_text("step 16")
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert text.inner_text() == whole
    canvas.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    playwright.expect(text).not_to_contain_text("rows 0 to 39")
    wheel = text.inner_text()
    page.mouse.down()
    page.mouse.move(700, 300)
    page.mouse.up()
    assert text.inner_text() != wheel


def test_density_is_that_of_the_report(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    mask = runs[0].masks[16]["fc10.weight"]
    bits = base64.b64encode(pack_bits(mask).tobytes()).decode()
    found = page.evaluate(
        """([text, rows, columns]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const { grid, peak, values } = densityOf(bytes, rows, columns, 90);
            return { grid, peak, values: [...values] };
        }""",
        [bits, *mask.shape],
    )
    grid, peak = density(mask, 90)
    assert found["grid"] == list(grid.shape)
    assert found["peak"] == pytest.approx(peak)
    difference = np.array(found["values"]).reshape(grid.shape) - grid
    assert abs(difference).max() <= 1  # numpy rounds halves to even, JavaScript rounds them up


def test_colours_follow_the_scheme(page: Any, runs: list[WrittenRun]) -> None:
    show(page, runs[0])
    playwright.expect(page.locator(".chart[data-drawn]")).to_have_count(1)
    tick = ".chart .xtick text"
    light = page.locator(tick).first.evaluate("e => getComputedStyle(e).fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "([tick, light]) => getComputedStyle(document.querySelector(tick)).fill !== light",
        arg=[tick, light],
    )
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(20, 23, 27)"


def test_a_hostile_run_does_not_run(page: Any, tmp_path: Path) -> None:
    mask = random_masks({"a": (9, 9)}, 0.5, 0)["a"]
    masks = {step: {EVIL: np.roll(mask, step)} for step in (0, 3)}
    run = write_run(
        tmp_path / "<img src=x onerror=pwned=3>", masks, algorithm=EVIL, config={"recipe": EVIL},
        extra={f"{EVIL.replace('/', '')}_per_second": 3, "<b>lr": 0.5},
    )  # fmt: skip
    write_report([run.path], "html", None)
    show(page, run)
    for name in page.get_by_role("tab").all_inner_texts():
        open_tab(page, name)
        panel = page.get_by_role("tabpanel", name=name)
        wanted = panel.locator(".chart").count()
        playwright.expect(panel.locator(".chart[data-drawn]")).to_have_count(wanted)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, main script").count() == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 4  # Plotly is the fourth
    open_tab(page, "Layers")
    ticks = page.get_by_role("tabpanel", name="Layers").locator(".ytick text").all_text_contents()
    assert [text[:20] for text in ticks] == ["<b></script><script>"]
    assert page.get_by_role("table", name="Layers").locator("td").first.inner_text() == EVIL
