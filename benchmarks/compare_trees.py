"""Run one benchmark alternately with two source trees, and compare the measured ratios.

    python benchmarks/compare_trees.py OLD NEW bench_step.py --tokens 128 --rounds 10

Each tree needs its own built kernels. The benchmark measures ratios, such as masked relative to
dense, so the machine's speed cancels within each run. The medians over the runs are compared.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

RUNS = 3


def run(tree, script, arguments):
    """Run a benchmark once with the library of a tree, and return its ratio for each case."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(tree / "src"), str(tree / "benchmarks")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "BENCHMARK_RESULTS": folder,
        }
        command = [sys.executable, str(tree / "benchmarks" / script), *arguments]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        rows = [row for path in Path(folder).glob("*.csv") for row in csv.DictReader(path.open())]
    return {f"{row['case']} / {row['against']}": float(row["ratio"]) for row in rows}


def main():
    """Print each case's ratio with the old tree and with the new tree, and new divided by old."""
    old, new = (Path(argument).resolve() for argument in sys.argv[1:3])
    script, *arguments = sys.argv[3:]
    found = {tree: defaultdict(list) for tree in (old, new)}
    for _ in range(RUNS):
        for tree, ratios in found.items():
            for case, ratio in run(tree, script, arguments).items():
                ratios[case].append(ratio)
    for case in found[old]:
        before, after = (statistics.median(found[tree][case]) for tree in (old, new))
        print(f"{case}: {before:.3f} -> {after:.3f}, {after / before:.3f}")


if __name__ == "__main__":
    main()
