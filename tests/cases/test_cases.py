"""Small user programs that failed with an earlier version; each must exit with status 0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsewright

CASES = sorted(Path(__file__).parent.glob("[0-9h][0-9]*.py"))
NEEDS = {"09_averaging_after_fit": "lightning"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_exits_0(path, tmp_path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    source = Path(sparsewright.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
