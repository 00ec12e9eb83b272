"""Parsers of the output of `sparsewright plan`."""

from __future__ import annotations

import json

ENTRY = {"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100, "stop": 1000}}


def as_json(done):
    assert done.status == 0, done.err
    return json.loads(done.out)


def lines_of(done) -> list[str]:
    assert done.status == 2, done.out + done.err
    assert "Traceback" not in done.err
    found = [line for line in done.err.splitlines() if line != "a factory may print"]
    assert all(line.startswith("error: ") for line in found), done.err
    return found
