"""Fully sharded training (FSDP2): real processes started by torchrun.

`shards_worker.py` trains sharded and whole models side by side; the tests read what it found.
"""

import json

import pytest

from helpers.distributed.ranks import run_ranks
from helpers.distributed.shards_worker import CASES, IN_EVERY_VARIANT, WITH_FOUR, WITH_TWO

WORLDS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=WORLDS, ids=["2 ranks", "4 ranks"])
def found(request, tmp_path_factory):
    target = tmp_path_factory.mktemp("shards") / "found.json"
    run_ranks("shards_worker.py", request.param, "train", target)
    return json.loads(target.read_text())


def named(found, key, is_wrong=bool):
    return {case: results[key] for case, results in found.items() if is_wrong(results[key])}


def test_every_case_ran(found):
    assert {case.split(" | ")[0] for case in found} == set(CASES)
    for name in IN_EVERY_VARIANT:
        variants = [case.split(" | ")[1] for case in found if case.startswith(f"{name} | ")]
        assert variants in (WITH_TWO, WITH_FOUR)


def test_masks_equal_those_of_one_process(found):
    assert named(found, "masks") == {}


def test_weights_equal_those_of_one_process(found):
    assert named(found, "worst", lambda worst: worst > 1e-5) == {}


def test_weights_gradients_and_states_are_pruned_after_every_step(found):
    assert named(found, "unpruned") == {}


def test_masks_are_sharded_like_the_weights(found):
    assert named(found, "whole") == {}


def test_every_rank_knows_how_many_connections_live(found):
    assert named(found, "kept") == {}


def test_events_are_those_of_one_process(found):
    assert named(found, "events equal", lambda equal: not equal) == {}
    grew = {case.split(" | ")[0] for case, results in found.items() if results["grown"]}
    assert grew == {name for name in CASES if not name.startswith(("static", "gmp"))}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded_checkpoint")
    run_ranks("shards_worker.py", 4, "save", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 1])
def test_a_checkpoint_of_four_ranks_goes_on_as_one_process_would(checkpoint, world, tmp_path):
    run_ranks("shards_worker.py", world, "load", checkpoint, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == set(CASES)
    assert {name: r["equal"] for name, r in found.items() if not all(r["equal"])} == {}
    assert {name: r["worst"] for name, r in found.items() if r["worst"] > 1e-5} == {}
