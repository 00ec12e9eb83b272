"""Run every case on this rank; started by torchrun.

The test with a case's name compares the results of all ranks.
"""

from __future__ import annotations

import json
import sys

import torch.distributed as dist

from helpers.distributed import (
    agreement_levels,
    agreement_placement,
    agreement_replicas,
    agreement_scores,
    agreement_shards,
)
from helpers.distributed.ranks import as_rank

CASES = (
    agreement_replicas.CASES
    | agreement_shards.CASES
    | agreement_levels.CASES
    | agreement_placement.CASES
    | agreement_scores.CASES
)


def main():
    found = {name: function() for name, function in CASES.items()}
    with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    as_rank(main)
