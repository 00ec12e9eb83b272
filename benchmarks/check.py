"""Exit with an error if a measured ratio exceeds its threshold: `python benchmarks/check.py`.

Reads the `results/*.csv` that the benchmarks write, and `thresholds.csv` with the columns
benchmark, case, against and most (the largest allowed ratio). Cases that were not measured, cases
without a threshold, and other files, such as the rates of `tools/cluster`, are ignored.
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
