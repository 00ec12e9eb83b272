"""The contract of all choices together on replicas and shards, in two processes.

`product_worker.py` compares each combination with one process after every step, and resumes it.
"""

import json
import re

import pytest

import sparsewright as sparse
from helpers.choices import STRUCTURES
from helpers.distributed.ranks import run_ranks
from helpers.product import Combination, spread

SHARDED = (
    "layers.0.weight: it is sharded, and compressed weights support only data parallelism or a "
    "single process"
)
CHANGED = (
    r"layers\.4\.weight: this mask update would change the number of live connections from \d+ to "
    r"\d+, which a compressed weight cannot do under data parallelism; use storage 'masked' for it"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    target = tmp_path_factory.mktemp("product") / "found.json"
    run_ranks("product_worker.py", 2, target)
    return json.loads(target.read_text())


def expected(combination: Combination, how: str) -> str:
    """Return a pattern of what the worker reports for a combination."""
    if combination.storage == "compressed" and how == "shards":
        return re.escape(SHARDED)
    (own,) = sparse.configure(combination.config).algorithms
    is_rising = own.schedules["sparsity"].levels() is None
    ablates = "ablate" in STRUCTURES[combination.structure] and combination.algorithm != "static"
    if combination.storage == "compressed" and (is_rising or ablates):
        return f"equal|{CHANGED}"
    return "equal"


@pytest.mark.parametrize("each", spread(), ids="-".join)
def test_ranks_equal_one_process_or_refuse(found, each):
    assert re.fullmatch(expected(Combination(*each[:-1]), each[-1]), found["-".join(each)])


def test_errors_and_agreement_both_occur(found):
    outcomes = list(found.values())
    assert SHARDED in outcomes
    assert any(re.fullmatch(CHANGED, outcome) for outcome in outcomes)
    assert outcomes.count("equal") > len(outcomes) / 2
