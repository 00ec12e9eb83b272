"""Steps of browser tests of a report."""

from __future__ import annotations

from typing import Any

from helpers.report_runs import WrittenRun

SIZES = [
    {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for width, scheme in ((1400, "light"), (390, "dark"))
]


def show(page: Any, run: WrittenRun) -> None:
    page.goto((run.path / "report.html").as_uri())


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()
