"""A browser and its pages for the tests of the report's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    reason = "playwright is not installed (extra `dev`)"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open a page, and check that it logs no errors and requests only the file."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
    opened, problems = context.new_page(), []
    opened.on("console", lambda line: problems.append(f"{line.type}: {line.text}"))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda asked: problems.append(asked.url) if is_foreign(asked) else None)
    yield opened
    assert problems == []
    context.close()


def is_foreign(request: Any) -> bool:
    return not request.url.startswith(("data:", "blob:")) and (
        not request.url.startswith("file://") or not request.is_navigation_request()
    )
