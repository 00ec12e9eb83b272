"""All code on the documentation pages runs, and the examples that the pages show are tested."""

import re

import pytest

from helpers.cli_process import Command, run_in_process
from helpers.pages import KINDS, PAGES, ROOT, blocks, examples, links, run_page

# The names that README's loops expect in the reader's program.
GIVEN = {
    "README.md": """
import torch
from torch import nn
from torch.optim import AdamW

import sparsewright as sparse

loss = nn.functional.cross_entropy
data = [(torch.randn(4, 8), torch.randint(4, (4,))) for _ in range(3)]


def make_model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
"""
}
WITH_CODE = [page for page in PAGES if blocks(page)]
NAMES = [str(page.relative_to(ROOT)) for page in WITH_CODE]


@pytest.mark.parametrize("page", WITH_CODE, ids=NAMES)
def test_all_code_on_a_page_runs(page, tmp_path):
    given = GIVEN.get(page.name, "")
    outcome = run_in_process(run_page, str(page), str(tmp_path), given, folder=tmp_path)
    assert outcome.status == 0, outcome.out[-3000:] + outcome.err[-6000:]


def test_errors_on_the_page_are_those_that_plan_prints(tmp_path):
    found = blocks(ROOT / "docs/watch.md")
    for block in found:
        if block.title:
            (tmp_path / block.title).write_text(block.code)
    (shown,) = (block.code for block in found if block.code.startswith("error:"))
    outcome = Command(tmp_path)("plan", "wrong.yaml", "--model", "mine:make")
    assert (outcome.status, outcome.err) == (2, shown)


def test_blocks_are_of_kinds_that_are_run():
    found = [block for page in PAGES for block in blocks(page)]
    assert {block.kind for block in found} <= KINDS
    assert len([block for block in found if block.kind == "python"]) > 40
    fences = sum(len(re.findall(r"^```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(found)


def test_blocks_that_ci_runs_are_those_of_readme():
    marked = [block for page in PAGES for block in blocks(page) if block.mark]
    readme = {block.mark: block.code for block in marked if block.page == "README.md"}
    assert set(readme) == {"train", "test"}
    for block in marked:
        assert block.code == readme[block.mark], block.place
    script = (ROOT / ".ci/run").read_text()
    assert "for name in train test; do" in script


def test_examples_on_the_pages_are_those_that_are_tested():
    shown = {name for page in PAGES for name in examples(page)}
    tested = (ROOT / "tests/integrations/test_examples.py").read_text()
    runs = {f"examples/{name}.py" for name in re.findall(r'run\("(\w+)"', tested)}
    assert shown == runs


def test_readme_links_to_files_that_are_there():
    local = [link for link in links(ROOT / "README.md") if "://" not in link]
    assert len(local) >= 10
    for link in local:
        assert (ROOT / link.partition("#")[0]).is_file(), link
