"""Structures of sharded tensors, in real processes started by torchrun.

`structures_worker.py` compares each operation with one process; the tests read what it found.
"""

import json
import math

import pytest

from helpers.distributed.ranks import run_ranks
from helpers.distributed.structures_worker import cases
from sparsewright.structures import NM, Block

WORLDS = [2, pytest.param(5, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=WORLDS, ids=["2 ranks", "5 ranks"])
def found(request, tmp_path_factory):
    target = tmp_path_factory.mktemp("structures") / "found.json"
    run_ranks("structures_worker.py", request.param, target)
    return json.loads(target.read_text()) | {"world": request.param}


def cut(structure, shape, world):
    """Return the error for shards that cut units apart; "equal" if they do not."""
    size, what = 1, "blocks"
    if isinstance(structure, Block):
        size = structure.shape[structure.out_dim]
    elif isinstance(structure, NM) and (structure.transposable or structure.in_dim == 0):
        size, what = structure.m, "tiles" if structure.transposable else "groups"
    count = math.ceil(shape[0] / world)
    if count % size == 0:
        return "equal"
    return (
        f"a sharded weight of shape {shape}: its shards have {count} rows, which cuts {what} of "
        f"{size} rows apart; use a size that divides {count}, or another number of ranks"
    )


def test_selections_equal_those_of_one_process_or_all_ranks_refuse(found):
    expected = {name: cut(structure, shape, found["world"]) for name, structure, shape in cases()}
    assert found["selections"] == expected
    assert {"equal"} < set(expected.values())


def test_nan_on_one_rank_raises_on_all(found):
    assert set(found["nan"].values()) == {"score contains NaN; its entries cannot be ranked"}


def test_apply_refuses_shards_that_cut_blocks_and_attaches_nothing(found):
    count = math.ceil(12 / found["world"])
    message = (
        f"0.weight of shape (12, 8): its shards have {count} rows, which cuts blocks of 4 rows "
        f"apart; use a size that divides {count}, or another number of ranks | []"
    )
    assert found["refused"] == [message, message]


def test_transposed_convolutions_train_as_in_one_process(found):
    assert found["trained"] == {"2:4": "equal", "blocks": "equal", "outputs": "equal"}
