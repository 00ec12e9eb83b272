"""Every benchmark runs, on tiny sizes; nothing is said about speed."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--width", "16", "--layers", "1"]
RUNS = {
    "bench_step.py": [*SMALL, "--rounds", "3", "--tokens", "8", "--algorithms", "static", "rigl"],
    "bench_update.py": ["--sides", "64", "--rounds", "2"],
    "bench_memory.py": [*SMALL, "--tokens", "8"],
    "bench_linear.py": ["--rounds", "2", "--levels", "0.9", "--tokens", "16", "--side", "64"],
    "bench_train.py": [*SMALL, "--rounds", "2", "--levels", "0.9", "--batch", "1", "--tokens", "8",
                       "--side", "64"],
    "scale.py": ["check", "--sizes", "tiny", "--rounds", "2", "--algorithm", "rigl",
                 "--dtypes", "float32"],
}  # fmt: skip


@pytest.mark.parametrize("script", RUNS)
def test_runs_and_writes_its_results(script, tmp_path):
    if script in ("bench_memory.py", "scale.py") and not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is reset through /proc, which this system does not have")
    environment = {**os.environ, "BENCHMARK_RESULTS": str(tmp_path)}
    command = [sys.executable, str(FOLDER / script), *RUNS[script]]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(float(row["ratio"]) == float(row["ratio"]) and row["machine"] for row in rows)


def check(tmp_path, ratio):
    (tmp_path / "step.csv").write_text(
        f'benchmark,case,against,ratio\nstep,"static, SGD, 128 tokens",dense,{ratio}\n'
    )
    environment = {**os.environ, "BENCHMARK_RESULTS": str(tmp_path)}
    command = [sys.executable, str(FOLDER / "check.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_check_passes_over_files_that_hold_no_ratios(tmp_path):
    (tmp_path / "rates.csv").write_text("operation,entries\nprune,4\n")
    result = check(tmp_path, 1.01)
    assert result.returncode == 0, result.stderr
    assert "ok" in result.stdout


def test_check_fails_over_a_threshold(tmp_path):
    assert check(tmp_path, 1.01).returncode == 0
    failed = check(tmp_path, 1.9)
    assert failed.returncode == 1
    assert "OVER" in failed.stdout
