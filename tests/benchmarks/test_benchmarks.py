"""Tests that every benchmark runs at tiny sizes; they do not check speed."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.cli_process import Command
from helpers.image_files import write_images

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--width", "16", "--layers", "1"]
RUNS = {
    "bench_step.py": [*SMALL, "--rounds", "3", "--tokens", "8", "--algorithms", "static", "rigl"],
    "bench_update.py": ["--sides", "64", "--rounds", "2"],
    "bench_memory.py": [*SMALL, "--tokens", "8"],
    "bench_linear.py": ["--rounds", "2", "--levels", "0.9", "--tokens", "16", "--side", "64"],
    "bench_train.py": [*SMALL, "--rounds", "2", "--levels", "0.9", "--batch", "1", "--tokens", "8",
                       "--side", "64"],
    "bench_structures.py": ["--rounds", "2", "--side", "32", "--channels", "32", "--layers", "3",
                            "--width", "16"],
}  # fmt: skip


def run(script, folder, *arguments):
    environment = {**os.environ, "BENCHMARK_RESULTS": str(folder)}
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows_of(folder):
    (path,) = folder.glob("*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("script", RUNS)
def test_runs_and_writes_its_results(script, tmp_path):
    if script == "bench_memory.py" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is reset through /proc/self/clear_refs, which only Linux has")
    run(script, tmp_path, *RUNS[script])
    rows = rows_of(tmp_path)
    assert rows
    assert all(float(row["ratio"]) == float(row["ratio"]) and row["machine"] for row in rows)


def a_page(folder, *names):
    page = folder / "page.md"
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- end {name} -->\n" for name in names))
    return page


def images(folder):
    write_images(folder, 400, 100)
    config = folder / "images.yaml"
    config.write_text(yaml.safe_dump({"data": {"dir": str(folder)}, "loop": {"steps": 40}}))
    return config


def test_accuracy_of_methods_goes_into_a_page(tmp_path):
    page = a_page(tmp_path, "fashion masked", "fashion compressed")
    options = ["--config", images(tmp_path), "--seeds", "0,1", "--levels", "0.8,0.9"]
    printed = run("fashion.py", tmp_path, *options, "--write", page)
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * (1 + 2 * 2 * 4)
    text = page.read_text()
    assert "old" not in text
    for storage in ("masked", "compressed"):
        table = text.partition(f"<!-- fashion {storage} -->")[2]
        case = {"method": "set", "storage": storage, "level": "0.9"}
        mean = sum(float(row["accuracy"]) / 2 for row in rows if case.items() <= row.items())
        line = next(line for line in table.splitlines() if line.startswith("| set |"))
        assert line.split("|")[3].startswith(f" {mean:.2f} ± ")
        assert line in printed


def test_growth_of_methods_goes_into_a_page(tmp_path):
    page = a_page(tmp_path, "growth")
    options = ["--config", images(tmp_path), "--seeds", "0"]
    run("growth.py", tmp_path, *options, "--write", page)
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 4
    share = {row["method"]: float(row["bright"]) for row in rows if row["optimizer"] == "AdamW"}
    assert share["RigL"] > share["SET"] > 0
    assert share["RigL"] > share["ScaledRigL"]
    assert f"| {share['RigL']:.0%} |" in page.read_text()


def test_loss_of_methods_goes_into_a_page(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a b c d e f g h i j " * 60)
    config = Command(tmp_path).config(data={"text": str(text)})
    page = a_page(tmp_path, "charlm masked")
    options = ["--config", config, "--seeds", "0", "--levels", "0.5", "--storages", "masked"]
    run("charlm.py", tmp_path, *options, "--write", page)
    rows = rows_of(tmp_path)
    assert [row["method"] for row in rows] == ["dense", "static", "set", "rigl", "gmp"]
    for row in rows:
        assert f"| {row['method']} | {float(row['loss']):.4f} ± 0.0000 |" in page.read_text()


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
