"""A replicated run resumes on another number of ranks."""

import json

import pytest

from helpers.distributed.ranks import run_ranks
from helpers.distributed.resume_worker import CASES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicated_checkpoint")
    run_ranks("resume_worker.py", 2, "save", folder)
    return folder


@pytest.mark.parametrize("world", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_of_two_ranks_goes_on_as_one_process_would(checkpoint, world, tmp_path):
    run_ranks("resume_worker.py", world, "load", checkpoint, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {name for name, *_ in CASES}
    right = {"masks": True, "ranks": True}
    assert {n: r for n, r in found.items() if r | right != r or r["worst"] > 1e-5} == {}
