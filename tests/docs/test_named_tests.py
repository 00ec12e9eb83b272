"""Every test that a page names exists."""

import ast
import re

import pytest

from helpers.pages import PAGES, ROOT

NAMED = sorted(
    {
        (page.name, file, test)
        for page in PAGES
        for cell in re.findall(r"`(tests/[^`]+)`(?:, `::(\w+)`)*", page.read_text())
        for file, _, test in [cell[0].partition("::")]
    }
)


@pytest.mark.parametrize(("page", "file", "test"), NAMED)
def test_a_test_that_a_page_names_exists(page, file, test):
    path = ROOT / file
    assert path.exists(), f"{page} names {file}, which does not exist"
    if test:
        tree = ast.parse(path.read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test.partition("[")[0] in names, f"{page} names {file}::{test}, which does not exist"


def test_pages_name_many_tests():
    assert len(NAMED) > 50
