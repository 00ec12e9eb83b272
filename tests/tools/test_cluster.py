"""Tests of `tools/cluster` against hand-computed numbers, the library, and itself."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tools.cluster import __main__ as program
from tools.cluster import measure, models
from tools.cluster.memory import PRECISIONS, Training, Weight, memory, update_extra
from tools.cluster.topology import Cluster, Collective
from tools.cluster.traffic import step_traffic, update_traffic
from tools.cluster.update_time import Rates, update_seconds
from torch import nn

from sparsewright import kernels
from sparsewright.layers import kind_of
from sparsewright.plan.costs import HISTOGRAM_BYTES, METHODS

ROOT = Path(program.__file__).parents[2]
# A sparse weight of 4 x 10 and a dense weight of 8.
TWO = [Weight("fc.weight", (4, 10), True), Weight("norm.weight", (8,), False)]
SQUARES = [Weight("a", (64, 64), True), Weight("b", (128, 64), True), Weight("c", (64,), False)]

algorithms = st.sampled_from(sorted(METHODS))
precisions = st.sampled_from(sorted(PRECISIONS))


def moved(collectives):
    return sum(c.bytes for c in collectives)


@pytest.mark.parametrize(
    ("name", "weights", "dense", "sparse"),
    [
        ("1b", 1_235_814_400, 128_256 * 2048, 16 * 7),
        ("7b", 6_738_415_616, 2 * 32_000 * 4096, 32 * 7),
        ("70b", 68_976_648_192, 2 * 32_000 * 8192, 80 * 7),
    ],
)
def test_shapes_have_the_published_number_of_weights(name, weights, dense, sparse):
    found = models.weights_of(models.build(name))
    norms = sum(w.numel for w in found if len(w.shape) == 1)
    assert sum(w.numel for w in found) == weights
    assert sum(w.numel for w in found if not w.sparse) == dense + norms
    assert sum(w.sparse for w in found) == sparse


def test_a_decoder_runs_with_both_kinds_of_mlp():
    for gated, matrices in ((True, 7), (False, 6)):
        model = models.Decoder(models.Shape(1, 32, 48, 4, 2, 50, gated))
        logits = model(torch.randint(50, (2, 5)))
        assert logits.shape == (2, 5, 50)
        logits.square().sum().backward()
        assert all(bool(p.grad.any()) for p in model.parameters())
        assert sum(w.sparse for w in models.weights_of(model)) == matrices


def own_model():
    """Return a model, as a user's own factory would."""
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv1d(2, 4, 3))


def test_a_model_of_ones_own_is_built_on_the_meta_device_and_filtered():
    model = models.build(f"{__name__}:own_model")
    assert all(p.is_meta for p in model.parameters())
    by_name = {w.name: w for w in models.weights_of(model)}
    assert {name for name, w in by_name.items() if w.sparse} == {"0.weight", "2.weight"}
    assert by_name["2.weight"].shape == (4, 2, 3)
    picked = models.weights_of(model, lambda name, _: name.startswith("0."))
    assert {w.name for w in picked if w.sparse} == {"0.weight", "0.bias"}
    with pytest.raises(SystemExit, match="must be 1b, 7b, 70b or module:factory, got '8b'"):
        models.build("8b")


@pytest.mark.parametrize(
    ("precision", "bytes_each"),
    [("float32", (4, 4, 8)), ("bfloat16", (2, 2, 4)), ("mixed", (2, 2, 12))],
)
def test_memory_by_hand(precision, bytes_each):
    held = memory(TWO, Training("static", precision=PRECISIONS[precision]), Cluster())
    assert list(held.values()) == [48 * n for n in bytes_each] + [40, 0]


def test_memory_of_the_device_with_most_rows():
    # The largest shard of 4 rows over 3 devices has 2 rows, of 8 rows over 3 devices 3.
    held = memory(TWO, Training("gmp"), Cluster(3, per_node=8, parallel="fsdp"))
    assert held["weights"] == 4 * (2 * 10 + 3)
    assert held["masks and index"] == 20


@pytest.mark.parametrize(
    ("algorithm", "precision", "extra"),
    [
        ("static", "float32", 0),
        ("gmp", "float32", 8192),
        ("set", "bfloat16", 7 * 8192),
        ("rigl", "bfloat16", max(2 * (4096 + 8192) + 3 * 4096, 2 * 8192 + 3 * 8192)),
        # Both dense gradients while the first weight is updated, or only the second one.
        ("rigl", "float32", max(4 * (4096 + 8192) + 3 * 4096, 4 * 8192 + 3 * 8192)),
    ],
)
def test_update_extra_by_hand(algorithm, precision, extra):
    training = Training(algorithm, precision=PRECISIONS[precision])
    assert update_extra(SQUARES, training, Cluster()) == extra


def test_compressed_memory_by_hand():
    kind = kind_of(nn.Linear(1, 1))
    weights = [Weight("fc.weight", (1024, 4096), True, kind)]
    training = Training("rigl", 0.9, stored="compressed")
    held, nnz = memory(weights, training, Cluster(8)), 419_430
    assert held["weights"] == held["gradients"] == 4 * nnz
    assert held["optimizer state"] == 8 * nnz
    assert held["masks and index"] == kind.cost((1024, 4096), nnz, torch.float32).index_bytes
    assert math.isnan(held["update extra"])
    assert sum(v for v in held.values() if v == v) / (16 * 4096 * 1024) == pytest.approx(0.2, 0.05)
    assert moved(step_traffic(weights, training, Cluster(8))) == 2 * 7 / 8 * 4 * nnz
    assert math.isnan(update_seconds(weights, training, Cluster(), rates_of(1))["total"])
    with pytest.raises(ValueError, match="cannot be sharded; use parallel='ddp'"):
        memory(weights, training, Cluster(8, parallel="fsdp"))


def test_shadowed_memory_by_hand():
    held = memory(TWO, Training("ste", precision=PRECISIONS["mixed"]), Cluster())
    # There are 48 entries and a shadow of 40 of them; gradient, state and master are dense.
    assert held["weights"] == 2 * (48 + 40)
    assert held["gradients"] == 2 * 48
    assert held["optimizer state"] == 12 * 48
    assert held["masks and index"] == 40
    assert math.isnan(held["update extra"])
    with pytest.raises(ValueError, match=r"^ste needs storage shadowed, not masked$"):
        memory(TWO, Training("ste", stored="masked"), Cluster())


def test_what_has_no_kind_stays_masked():
    held = memory(TWO, Training("rigl", stored="compressed"), Cluster())
    assert held["masks and index"] == 40


def test_bytes_of_a_ring():
    assert Collective("all-reduce", 800, 4, None).bytes == 2 * 3 * 200
    assert Collective("all-gather", 800, 4, None, calls=2).bytes == 2 * 3 * 200
    assert Collective("reduce-scatter", 800, 4, None).bytes == 3 * 200


def test_time_of_a_ring():
    collective = Collective("all-gather", 4e9, 4, 3.0, calls=5)
    assert collective.seconds(None) == pytest.approx(5.0)
    assert collective.seconds(0.1) == pytest.approx(5.5)
    assert Collective("all-gather", 4e9, 4, None).seconds(0.1) is None
    assert Collective("all-gather", 4e9, 1, None).seconds(0.1) == 0


def test_traffic_of_replicas_by_hand():
    cluster = Cluster(4, parallel="ddp")
    rigl = Training("rigl", precision=PRECISIONS["bfloat16"])
    assert moved(step_traffic(TWO, rigl, cluster)) == 2 * 3 / 4 * 48 * 2
    assert moved(update_traffic(TWO, rigl, cluster)) == 2 * 3 / 4 * 40 * 2
    for algorithm in ("static", "gmp", "set"):
        assert update_traffic(TWO, Training(algorithm), cluster) == []


@pytest.mark.parametrize(
    ("algorithm", "precision", "rounds", "selects"),
    [
        ("gmp", "float32", 3, 1),
        ("gmp", "mixed", 2, 1),
        ("set", "float32", 6, 2),
        ("set", "mixed", 5, 2),
        ("rigl", "float32", 6, 2),
        ("rigl", "mixed", 4, 2),
    ],
)
def test_traffic_of_shards_by_hand(algorithm, precision, rounds, selects):
    cluster = Cluster(4, parallel="fsdp")
    training = Training(algorithm, precision=PRECISIONS[precision])
    histograms = rounds * 2 * 3 / 4 * HISTOGRAM_BYTES
    ties = selects * 3 * 8
    counts = selects * 16 + {"gmp": 32, "set": 40, "rigl": 48}[algorithm]
    expected = histograms + ties + 2 * 3 / 4 * counts
    assert moved(update_traffic(TWO, training, cluster)) == expected
    size = PRECISIONS[precision].weight.itemsize * 48
    assert moved(step_traffic(TWO, training, cluster)) == 3 * 3 / 4 * size


def test_hybrid_shards_inside_a_node_and_reduces_across():
    cluster = Cluster(8, 4, "hybrid", intra=100.0, inter=10.0)
    assert (cluster.shards, cluster.replicas) == (4, 2)
    step = step_traffic(TWO, Training(), cluster)
    assert [(c.kind, c.ways, c.bandwidth, c.payload) for c in step] == [
        ("all-gather", 4, 100.0, 48 * 4),
        ("reduce-scatter", 4, 100.0, 48 * 4),
        ("all-reduce", 2, 10.0, 48),
    ]
    assert {c.ways for c in update_traffic(TWO, Training(), cluster)} == {4}


def test_the_slowest_link_decides():
    inside, across = (Cluster(n, 8, "fsdp", intra=100.0, inter=10.0) for n in (8, 16))
    assert (inside.shard_bandwidth, across.shard_bandwidth) == (100.0, 10.0)
    inside, across = (Cluster(n, 8, "ddp", intra=100.0, inter=10.0) for n in (8, 16))
    assert (inside.replica_bandwidth, across.replica_bandwidth) == (100.0, 10.0)


def test_a_cluster_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="12 devices do not divide into nodes of 8"):
        Cluster(12, 8, "hybrid")
    with pytest.raises(ValueError, match="parallel must be one of ddp, fsdp, hybrid, got 'tensor'"):
        Cluster(4, parallel="tensor")


def rates_of(seconds_per_entry, without=()):
    """Return the same rate for all operations."""
    names = ["select all", "select live", "select pruned", "select sharded", "finite", "prune"]
    keys = [(name, dtype) for name in names for dtype in ("float32", "bfloat16")]
    keys += [("changes", "bool"), ("mask", "bool"), ("random", "float32")]
    return Rates({k: [(1, seconds_per_entry)] for k in keys if k[0] not in without})


def test_rates_between_and_beyond_the_sizes_measured():
    rates = Rates({("prune", "float32"): [(10, 1.0), (30, 2.0)]})
    found = [rates.seconds("prune", torch.float32, n) for n in (1, 10, 20, 30, 60)]
    assert found == pytest.approx([1, 1, 1.5, 2, 4])
    assert rates.seconds("prune", torch.bfloat16, 10) is None


@pytest.mark.parametrize(
    ("algorithm", "selection", "random", "passes"),
    # 8 passes: finite, changes, two masks, prune of weight, gradient and two states. Growth adds 3,
    # and the dense gradient's finite check 1.
    [("static", 0, 0, 0), ("gmp", 1, 0, 8), ("set", 2, 1, 11), ("rigl", 2, 0, 12)],
)
def test_time_of_an_update_by_hand(algorithm, selection, random, passes):
    found = update_seconds(TWO, Training(algorithm), Cluster(), rates_of(1.0))
    wanted = [40 * n for n in (selection, random, passes)]
    assert list(found.values()) == [*wanted, 0, sum(wanted)]


def test_random_numbers_are_those_of_the_own_shard():
    cluster = Cluster(4, parallel="fsdp", intra=1.0)
    found = update_seconds(TWO, Training("set"), cluster, rates_of(1.0))
    assert found["random"] == 10
    assert found["selection"] == 2 * 10


def test_what_is_not_measured_is_not_made_up():
    cluster = Cluster(4, parallel="fsdp")
    found = update_seconds(TWO, Training("rigl"), cluster, rates_of(1.0))
    assert (found["communication"], found["total"]) == (None, None)
    found = update_seconds(TWO, Training("rigl"), Cluster(), rates_of(1.0, without=["finite"]))
    assert found["selection"] == 80
    assert (found["other passes"], found["total"]) == (None, None)
    assert program.number(None) == "not measured"
    assert program.number(math.nan) == "not modeled"


@given(algorithms, precisions, st.sampled_from(["ddp", "fsdp"]), st.integers(1, 60))
def test_bytes_moved_rise_with_the_devices_and_those_held_fall(algorithm, precision, parallel, n):
    training = Training(algorithm, precision=PRECISIONS[precision])
    small, large = (Cluster(devices, 64, parallel) for devices in (n, n + 1))
    for traffic in (step_traffic, update_traffic):
        assert moved(traffic(SQUARES, training, small)) <= moved(traffic(SQUARES, training, large))
    held = [sum(v for v in memory(SQUARES, training, c).values() if v == v) for c in (small, large)]
    assert held[0] >= held[1]
    assert parallel == "fsdp" or held[0] == held[1]


@given(algorithms, precisions, st.sampled_from(["ddp", "fsdp", "hybrid"]))
def test_one_device_moves_nothing(algorithm, precision, parallel):
    training = Training(algorithm, precision=PRECISIONS[precision])
    for traffic in (step_traffic, update_traffic):
        assert moved(traffic(SQUARES, training, Cluster(1, 8, parallel))) == 0


@given(precisions, st.integers(1, 4), st.integers(1, 4))
def test_hybrid_of_one_node_is_fully_sharded(precision, per_node, factor):
    training = Training("rigl", precision=PRECISIONS[precision])
    hybrid, fsdp = (Cluster(per_node, per_node * factor, p) for p in ("hybrid", "fsdp"))
    for traffic in (step_traffic, update_traffic):
        assert traffic(SQUARES, training, hybrid) == traffic(SQUARES, training, fsdp)


@given(
    st.integers(1, 300),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 2**31),
    st.data(),
)
def test_selection_by_histograms_is_exact(n, dtype, seed, data):
    num = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(1, n, generator=generator).to(dtype)
    score[torch.rand(1, n, generator=generator) < 0.5] = 0
    wanted = kernels.select(score, num)
    assert torch.equal(measure.select_sharded(score, num), wanted)


def run(*arguments, results):
    environment = {**os.environ, "BENCHMARK_RESULTS": str(results)}
    command = [sys.executable, "-m", "tools.cluster", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_measures_rates_and_prints_the_table(tmp_path):
    sizes = ["--sizes", 1024, 4096, "--rounds", 2]
    result = run("rates", *sizes, results=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*.csv")
    assert {row["entries"] for row in rows_of(path)} == {"1024", "4096"}
    options = ["--model", "1b", "--devices", 8, "--parallel", "ddp", "fsdp", "--step-seconds", 2]
    options += ["--precision", "mixed", "--intra", 100, "--freq", 10]
    result = run("cost", *options, "--rates", path, results=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "973,078,528 of them sparse" in result.stdout
    ddp, fsdp = rows_of(tmp_path / "scale.csv")
    assert float(ddp["weights GB"]) == pytest.approx(2.4716288)
    assert float(ddp["masks and index GB"]) == pytest.approx(0.973078528)
    assert float(ddp["update moves GB"]) == pytest.approx(2 * 7 / 8 * 2 * 0.973078528)
    assert float(fsdp["weights GB"]) == pytest.approx(2.4716288 / 8)
    for row in (ddp, fsdp):
        assert float(row["share of run %"]) == pytest.approx(100 * float(row["total s"]) / 20)
    result = run("cost", *options, results=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "not measured" in result.stdout
    assert rows_of(tmp_path / "scale.csv")[0]["total s"] == ""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is reset through /proc"
)
def test_the_command_compares_with_measurement(tmp_path):
    options = ["--sizes", "tiny", "--rounds", 2, "--algorithm", "rigl", "--dtypes", "float32"]
    result = run("check", *options, results=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("scale-check-*.csv")  # the name ends with the instruction set
    rows = rows_of(path)
    assert [row["case"].rpartition(", ")[2] for row in rows] == ["held", "peak", "update"]
    assert all(float(row["ratio"]) >= 1 and row["machine"] for row in rows)
