"""Models that are made tensor parallel before or after `apply`: real processes by torchrun."""

import json

import pytest

from helpers.distributed.ranks import run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    target = tmp_path_factory.mktemp("parallel") / "found.json"
    run_ranks("tensor_parallel_worker.py", 2, target)
    return json.loads(target.read_text())


def test_either_order_gives_the_run_of_one_process(found):
    runs = {case: result for case, result in found.items() if case != "rows"}
    assert len(runs) == 4 * 2 * 2 + 1
    for case, result in runs.items():
        assert result["masks"] == [], case
        assert not result["kept"], case
        assert result["worst"] < 1e-5, case


def test_rows_that_are_spread_are_refused_in_either_order(found):
    for when, error in found["rows"].items():
        assert "2.weight" in error, when
        assert "Shard(dim=1)" in error, when
