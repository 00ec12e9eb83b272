"""Runs every case on this rank; started by torchrun.

What a case returns is compared, on every rank, by the test of its name.
"""

from __future__ import annotations

import json
import sys

import torch.distributed as dist

from helpers.distributed import agreement_placement, agreement_replicas, agreement_shards
from helpers.distributed.ranks import as_rank

CASES = agreement_replicas.CASES | agreement_shards.CASES | agreement_placement.CASES


def main():
    found = {name: function() for name, function in CASES.items()}
    with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    as_rank(main)
