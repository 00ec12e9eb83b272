"""Fail if a measured ratio is over its threshold: `python benchmarks/check.py`.

Reads `results/*.csv` as written by the benchmarks, and `thresholds.csv`: benchmark, case, against,
largest ratio allowed. A case that was not measured is not an error; one without a threshold is
not checked, nor is a file of something else, such as the rates of `tools/cluster`.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main():
    with (HERE / "thresholds.csv").open(newline="") as file:
        bars = {
            (r["benchmark"], r["case"], r["against"]): float(r["most"])
            for r in csv.DictReader(file)
        }
    results = Path(os.environ.get("BENCHMARK_RESULTS", HERE / "results"))
    failed = 0
    for path in sorted(results.glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row.get(name) for name in ("benchmark", "case", "against"))
                if key in bars:
                    over = float(row["ratio"]) > bars[key]
                    failed += over
                    mark, ratio = "OVER" if over else "ok", float(row["ratio"])
                    print(f"{mark:5} {ratio:7.3f} <= {bars[key]:<6} {': '.join(key)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
