"""Compute the cost of sparse training on a cluster: memory, bytes moved, update time.

`cost` prints a table and writes `benchmarks/results/scale.csv`. `rates` measures this machine's
rates, from which `cost` computes times. `check` trains models that fit on this machine and compares
the results with the predictions. A time is "not measured" if it needs a rate that was not measured
or a bandwidth that was not given. docs/scale.md has examples and the limits of the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math

import torch

from benchmarks import harness
from sparsewright.core.filters import make_param_filter
from sparsewright.plan.costs import METHODS
from sparsewright.storage import ALL as STORAGES
from tools.cluster import check as checking
from tools.cluster import measure, models
from tools.cluster.memory import PRECISIONS, Training, Weight, memory
from tools.cluster.topology import PARALLEL, Cluster
from tools.cluster.traffic import step_traffic, update_traffic
from tools.cluster.update_time import Rates, update_seconds

GB, STATES = 1e9, {"adamw": 2, "momentum": 1, "sgd": 0}
MEMORY = ["weights", "gradients", "optimizer state", "masks and index", "update extra"]
TIME = ["selection", "random", "other passes", "communication", "total"]


def cost(
    model: str,
    weights: list[Weight],
    training: Training,
    cluster: Cluster,
    rates: Rates,
    seconds_between: float | None,
) -> dict[str, object]:
    """Return one line of the table: GB and seconds of one device, None where unknown.

    Args:
        model: the model's name.
        weights, training, cluster, rates: as in `memory`, `step_traffic` and `update_seconds`.
        seconds_between: time from one update to the next, without the update itself.
    """
    held = memory(weights, training, cluster)
    step = step_traffic(weights, training, cluster)
    update = update_traffic(weights, training, cluster)
    seconds = update_seconds(weights, training, cluster, rates)
    share = None
    if seconds_between is not None and seconds["total"] is not None:
        share = 100 * seconds["total"] / seconds_between
    return {
        "model": model,
        "on": f"{cluster.devices} {cluster.parallel}",
        "method": training.algorithm,
        **{f"{part} GB": held[part] / GB for part in MEMORY},
        "peak GB": math.fsum(held.values()) / GB,
        "step moves GB": sum(c.bytes for c in step) / GB,
        "of it ours GB": 0.0,
        "update moves GB": sum(c.bytes for c in update) / GB,
        "update calls": sum(c.calls for c in update),
        **{f"{part} s": seconds[part] for part in TIME},
        "share of run %": share,
    }


def number(value: object) -> str:
    """Format a value with three digits; None shows as not measured, nan as not modeled."""
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return (
            "not modeled"
            if math.isnan(value)
            else f"{value:.3g}"
            if value < 1e3
            else f"{value:.0f}"
        )
    return str(value)


def show(rows: list[dict[str, object]], columns: list[str]) -> None:
    """Print some columns as a table, with rich if it is installed."""
    lines = [[number(row[column]) for column in columns] for row in rows]
    if importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, pad_edge=False)
        for line in lines:
            table.add_row(*line)
        Console(width=None if Console().is_terminal else 160).print(table)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
        for line in [columns, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print()


def print_costs(args: argparse.Namespace) -> None:
    rates = measure.read(args.rates, args.clock) if args.rates else Rates({})
    picks = make_param_filter(args.param_filter) if args.param_filter else None
    between = args.step_seconds and args.freq * args.step_seconds
    latency = None if args.latency_us is None else args.latency_us * 1e-6
    rows = []
    for model in args.model:
        weights = models.weights_of(models.build(model), picks)
        sparse = sum(w.numel for w in weights if w.sparse)
        print(f"{model}: {sum(w.numel for w in weights):,} weights, {sparse:,} of them sparse")
        for parallel, algorithm in itertools.product(args.parallel, args.algorithm):
            training = Training(
                algorithm, args.sparsity, PRECISIONS[args.precision], STATES[args.optimizer],
                args.storage,
            )  # fmt: skip
            cluster = Cluster(
                args.devices, args.per_node, parallel, args.intra, args.inter, latency
            )
            rows.append(cost(model, weights, training, cluster, rates, between))
    names, columns = ["model", "on", "method"], list(rows[0])
    split = columns.index("selection s")
    print()
    show(rows, columns[:split])
    show(rows, names + columns[split:])
    if latency is None and args.devices > 1:
        print("no --latency-us was given, so the time of a collective covers only its bytes")
    print(f"wrote {harness.write(rows, 'scale')}")


def measure_rates(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    times = measure.measure(args.sizes, args.dtypes, args.device, args.sparsity, args.rounds)
    rows = measure.medians(times, args.device)
    show(rows, ["operation", "dtype", "entries", "cpu_s", "wall_s"])
    print(f"# {harness.machine()}\nwrote {harness.write(rows, f'scale-rates-{args.device}')}")


def check(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = checking.compare(args.sizes, args.algorithm, args.dtypes, args.rounds)
    harness.report(rows, "scale-check")


def add_cost_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", nargs="+", required=True, help="1b, 7b, 70b, or your own module:factory")
    add("--devices", type=int, default=1, help="number of devices")
    add("--per-node", type=int, default=8, help="number of devices in a node")
    add("--parallel", nargs="+", choices=PARALLEL, default=["ddp"], help="one table row for each")
    add("--algorithm", nargs="+", choices=METHODS, default=["rigl"], help="one table row for each")
    add("--sparsity", type=float, default=0.9, help="sparsity level, 0..1")
    add("--freq", type=int, default=100, help="steps between mask updates")
    add("--optimizer", choices=STATES, default="adamw")
    add("--precision", choices=PRECISIONS, default="float32")
    add(
        "--storage",
        choices=[cls.name for cls in STORAGES],
        default="",
        help="default: the method's own",
    )
    add("--param-filter", help="glob of the sparse weights; default: the library's default filter")
    add("--intra", type=float, help="GB/s of one device, one direction, inside its node")
    add("--inter", type=float, help="GB/s of one device, one direction, between nodes")
    add(
        "--latency-us",
        type=float,
        help="microseconds of a collective call in addition to its bytes",
    )
    add("--step-seconds", type=float, help="seconds of a step without a mask update")
    add("--rates", help="CSV that `python -m tools.cluster rates` wrote on this kind of device")
    add(
        "--clock",
        choices=["wall_s", "cpu_s"],
        default="wall_s",
        help="which times of the rates to use",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_cost_options(commands.add_parser("cost", help="print the cost table"))
    add = commands.add_parser("rates", help="measure the rates of this machine").add_argument
    sizes = [1 << n for n in (10, 14, 16, 18, 20, 22, 24)]
    add("--sizes", type=int, nargs="+", default=sizes, help="numbers of entries")
    add("--dtypes", nargs="+", default=["float32", "bfloat16"])
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--sparsity", type=float, default=0.9)
    add("--threads", type=int, default=1)
    add("--rounds", type=int, default=5)
    add = commands.add_parser("check", help="compare predictions with measurements").add_argument
    add("--sizes", nargs="+", choices=checking.SIZES, default=["6M", "25M", "101M"])
    add("--algorithm", nargs="+", choices=checking.ALGORITHMS, default=list(checking.ALGORITHMS))
    add("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    add("--rounds", type=int, default=7)
    args = parser.parse_args()
    {"cost": print_costs, "rates": measure_rates, "check": check}[args.command](args)


if __name__ == "__main__":
    main()
