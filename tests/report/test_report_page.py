"""Test that the page is small, self-contained and correct, and runs no code from a run."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import zlib
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.report_runs import random_masks, write_run
from sparsewright.errors import MissingPackageError, ReportError
from sparsewright.formats.mask_bits import unpack_bits
from sparsewright.report import page as page_module
from sparsewright.report.command import write_report
from sparsewright.report.mask_statistics import density
from sparsewright.report.page import MOST_BYTES, embed, make_page
from sparsewright.report.pictures import take_pictures
from sparsewright.report.read import Run, read_runs

ASSETS = Path(page_module.__file__).parent / "assets"


def a_run(path: Path, shapes: dict[str, tuple[int, ...]], steps: tuple[int, ...]) -> Run:
    masks = {step: random_masks(shapes, 0.9, step) for step in steps}
    return read_runs([write_run(path, masks).path])[0]


def data_of(text: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


def unpacked(payload: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(payload)), np.uint8)


@pytest.mark.parametrize("budget", [0, 2_000, 6_000, 20_000, 60_000, 400_000, 2_000_000])
def test_pictures_are_of_the_masks_and_keep_to_their_budget(tmp_path: Path, budget: int) -> None:
    shapes = {"small": (9, 31), "wide": (40, 1500), "large": (600, 512)}
    run = a_run(tmp_path / "run", shapes, (0, 3, 6, 9))
    pictures = take_pictures([run], budget)
    size = len(embed(pictures.layers)) + len(embed(pictures.payloads))
    assert size <= max(budget, 1_000)  # the layers' names are always included
    kinds = set()
    for layer in pictures.layers:
        steps = [picture["step"] for picture in layer["pictures"]]
        assert steps == sorted(steps)
        if steps:
            assert steps[-1] == run.last_step
        for picture in layer["pictures"]:
            mask = run.mask(layer["layer"], picture["step"])
            if "whole" in picture:
                bits = unpacked(pictures.payloads[picture["whole"]])
                assert np.array_equal(unpack_bits(bits, mask.shape), mask)
                kinds.add("whole")
                continue
            grid, peak = density(mask, max(picture["grid"]))
            found = unpacked(pictures.payloads[picture["density"]]).reshape(picture["grid"])
            assert np.array_equal(found, grid)
            assert picture["peak"] == pytest.approx(peak, rel=1e-3)
            kinds.add("density")
            if "window" in picture:
                row, column, height, width = picture["window"]
                bits = unpacked(pictures.payloads[picture["bits"]])
                window = mask[row : row + height, column : column + width]
                assert np.array_equal(unpack_bits(bits, (height, width)), window)
                assert window.shape == (height, width)
                middle = (2 * row + height - mask.shape[0], 2 * column + width - mask.shape[1])
                assert set(middle) <= {-1, 0}
                kinds.add("window")
    expected = {
        0: set(), 20_000: {"whole", "density", "window"}, 2_000_000: {"whole"},
    }  # fmt: skip
    assert kinds == expected.get(budget, kinds)


def test_equal_masks_are_stored_once(tmp_path: Path) -> None:
    mask = random_masks({"fc": (60, 70)}, 0.9, 0)
    run = read_runs([write_run(tmp_path / "run", {0: mask, 5: mask}).path])[0]
    pictures = take_pictures([run], 100_000)
    assert len(pictures.payloads) == 1
    assert [picture["step"] for picture in pictures.layers[0]["pictures"]] == [0, 5]


def test_a_model_of_a_hundred_layers_stays_under_five_megabytes(tmp_path: Path) -> None:
    shapes = {f"encoder.layers.{n}.weight": (400, 768) for n in range(100)}
    first = random_masks(shapes, 0.9, 0)
    masks = {
        step: {name: np.roll(mask, step, axis=1) for name, mask in first.items()}
        for step in (0, 100, 300)
    }
    run = read_runs([write_run(tmp_path / "run", masks).path])[0]
    # Log as many updates as a run of 30,000 steps with an update every 100 steps.
    for name in run.layers:
        line = run.metrics.updates[name][-1]
        run.metrics.updates[name] = [line | {"step": step} for step in range(100, 30_000, 100)]
    run.metrics.steps = [run.metrics.steps[-1] | {"step": step} for step in range(30_000)]
    text = make_page([run])
    size = len(text.encode())
    assert size <= MOST_BYTES == 5_000_000
    assert size > 0.9 * MOST_BYTES  # the pictures use the available bytes
    layers = data_of(text)["masks"]["layers"]
    assert len(layers) == 100
    assert all(layer["pictures"] and "window" in layer["pictures"][-1] for layer in layers)


def test_a_page_that_cannot_be_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "run", {"fc": (9, 9)}, (0, 3))
    monkeypatch.setattr(page_module, "MOST_BYTES", 1_000_000)
    message = r"report of run: the page would have [\d,]+ bytes, more than 1,000,000; choose fewer"
    with pytest.raises(ReportError, match=message):
        make_page([run])


def test_without_plotly_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", {0: random_masks({"fc": (9, 9)}, 0.5, 0)})
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sparsewright\[report\]'"):
        write_report([run.path], "html", None)
    assert write_report([run.path], "csv", None) == run.path / "report.csv"


def test_standard_output_is_utf8_in_any_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", {0: random_masks({"fc": (9, 9)}, 0.5, 0)})
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert write_report([run.path], "md", Path("-")) is None
    text = sys.stdout.buffer.getvalue().decode()
    assert text == write_report([run.path], "md", None).read_text("utf-8")
    assert not text.isascii()


class Loads(HTMLParser):
    """Collect what a page would load or run: attributes with addresses, and event handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset") or name.startswith("on"):
                self.found.append((tag, name, value))


def test_page_loads_nothing_and_has_no_handlers(tmp_path: Path) -> None:
    text = make_page([a_run(tmp_path / "run", {"fc": (9, 9)}, (0, 3))])
    parser = Loads()
    parser.feed(text)
    assert parser.found == [("a", "href", "https://arxiv.org/abs/1911.11134")]
    style = (ASSETS / "report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]


def test_a_run_that_logged_nothing_has_no_empty_charts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {0: random_masks({"fc": (9, 9)}, 0.5, 0)})
    (run.path / "metrics.jsonl").write_text("")
    text = make_page(read_runs([run.path]))
    assert list(data_of(text)["figures"]) == ["bars"]
    assert re.findall('data-chart="(.*?)"', text) == ["bars"]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
    masks = {0: {evil: random_masks({"a": (5, 5)}, 0.5, 0)["a"]}}
    masks[3] = masks[0]
    run = write_run(tmp_path / "<b>run", masks, algorithm=evil, config={"recipe": evil})
    text = make_page(read_runs([run.path]))
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert "<b>run" not in text.replace("<b>&lt;b&gt;run", "")
    assert data_of(text)["masks"]["layers"][0]["layer"] == evil
    # A placeholder of the template stays text in the data.
    masks = {0: {"%%library%%": masks[0][evil]}}
    text = make_page(read_runs([write_run(tmp_path / "other", masks).path]))
    assert data_of(text)["masks"]["layers"][0]["layer"] == "%%library%%"


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (ASSETS / "report.css").read_text(), re.S)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme]))
    assert len(colors) == 18
    for text, back in product(("text", "soft", "accent"), ("back", "panel")):
        assert contrast(colors[text], colors[back]) >= 4.5, (text, back)
    for line in ("focus", *(f"c{n}" for n in range(8))):
        assert contrast(colors[line], colors["back"]) >= 3, line
    assert contrast(colors["full"], colors["empty"]) >= 7
