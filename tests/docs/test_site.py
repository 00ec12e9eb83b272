"""The site builds without warnings, documents every public name, and loads nothing remote."""

import re
import subprocess
import sys
import zlib

import pytest

import sparsewright
from helpers.pages import ROOT
from test_public_names import DOCUMENTED, METHODS


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def documented(site):
    """Map each name on the API pages to (page, anchor), as listed in the site's inventory."""
    content = (site / "objects.inv").read_bytes()
    *_, body = content.split(b"\n", 4)
    found = {}
    for line in zlib.decompress(body).decode().splitlines():
        name, _, _, uri, _ = line.split(" ", 4)
        page, _, anchor = uri.partition("#")
        found[name] = page, anchor.replace("$", name)
    return found


MODULES = {"init", "utils", "nn", "errors", "schedules", "structures", "distributions"}
MODULES |= {"calibration"}
PUBLIC = [
    f"{module}.{name}"
    for module, names in DOCUMENTED.items()
    for name in sorted(names - MODULES if module == "sparsewright" else names)
]


def page_of(site, uri):
    return site / uri / "index.html" if not uri or uri.endswith("/") else site / uri


def test_every_public_name_is_on_an_api_page(site, documented):
    assert len(PUBLIC) > 55
    assert [name for name in PUBLIC if name not in documented] == []
    for name in PUBLIC:
        page, anchor = documented[name]
        assert page.startswith("api/"), name
        assert f'id="{anchor}"' in page_of(site, page).read_text(), name


def test_public_methods_are_on_the_page_of_a_class_that_has_them(site):
    text = "".join(page.read_text() for page in (site / "api").rglob("*.html"))
    anchors = set(re.findall(r'id="sparsewright\.\w+\.(\w+\.\w+)"', text))
    for cls, methods in METHODS.items():
        owners = [owner.__name__ for owner in getattr(sparsewright, cls).__mro__]
        for method in [name for name in methods.split() if not name.startswith("_")]:
            assert any(f"{owner}.{method}" in anchors for owner in owners), f"{cls}.{method}"


def test_every_module_with_public_names_has_its_page(site):
    pages = {path.parent.name for path in (site / "api").glob("*/index.html")}
    assert {name.rpartition(".")[2] for name in DOCUMENTED} - {"sparsewright"} <= pages


def test_a_reader_needs_no_network(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"[^>]*\brel="stylesheet"', text)
        loaded += re.findall(r'<link\b[^>]*\brel="[^"]*"[^>]*\bhref="([^"]+)"', text)
        loaded += re.findall(r"""(?:url\(|@import )['"]?([^'")]+)""", text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page
