"""Kernels for compressed weights, compared with dense float64 products, on every ISA."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsewright.kernels import csr, native
from sparsewright.kernels.reference import products

ISAS = ["portable", "avx2", "avx512"]
AVAILABLE = ISAS[: ISAS.index(native.info()["best_isa"]) + 1] if native.module() else []
SHAPES = st.tuples(st.integers(0, 80), st.integers(0, 300), st.integers(0, 90))
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=[None, *AVAILABLE], ids=lambda isa: isa or "reference")
def path(request, monkeypatch):
    """Use the reference kernels or one instruction set."""
    if request.param is None:
        monkeypatch.setattr(native, "_module", None)
    else:
        monkeypatch.setattr(native, "_isa", request.param)
    return request.param


def make(rows, cols, density, seed):
    torch.manual_seed(seed)
    mask = torch.rand(rows, cols) < density
    if rows > 2:
        mask[rows // 2] = False
    weight = torch.randn(rows, cols) * mask
    layout = csr.layout_from_mask(mask)
    return mask, weight, layout, csr.gather_dense(weight, layout)


@QUICK
@given(SHAPES, st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.integers(1, 3), st.integers(0, 99))
def test_products_equal_dense_float64(path, shape, density, threads, seed):
    rows, cols, tokens = shape
    torch.set_num_threads(threads)
    try:
        mask, weight, layout, values = make(rows, cols, density, seed)
        x, dy, bias = torch.randn(tokens, cols), torch.randn(tokens, rows), torch.randn(rows)
        y = csr.linear(x, values, layout, bias)
        dx = csr.input_grad(dy, values, layout)
        dvalues = csr.values_grad(dy, x, layout)
    finally:
        torch.set_num_threads(1)
    wide = weight.double()
    torch.testing.assert_close(y.double(), x.double() @ wide.T + bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dx.double(), dy.double() @ wide, atol=1e-4, rtol=1e-4)
    expected = (dy.double().T @ x.double())[mask]
    torch.testing.assert_close(dvalues.double(), expected, atol=1e-4, rtol=1e-4)


@QUICK
@given(SHAPES, st.integers(0, 99))
def test_bfloat16_activations_are_summed_in_float32(path, shape, seed):
    rows, cols, tokens = shape
    _, weight, layout, values = make(rows, cols, 0.2, seed)
    x = torch.randn(tokens, cols).bfloat16()
    y = csr.linear(x, values, layout, None)
    assert y.dtype == torch.bfloat16
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(y.double(), expected, atol=1e-3, rtol=8e-3)


@QUICK
@given(SHAPES, st.sampled_from([0.0, 0.1, 0.7]), st.integers(0, 99))
def test_layout_is_the_mask(path, shape, density, seed):
    rows, cols, _ = shape
    mask, weight, layout, values = make(rows, cols, density, seed)
    assert layout.nnz == int(mask.sum())
    assert torch.equal(values, weight[mask])
    assert torch.equal(csr.dense_mask(layout), mask)
    assert torch.equal(csr.scatter_dense(values, layout), weight)
    assert torch.equal(csr.flat_positions(layout), mask.flatten().nonzero().squeeze(1))
    twin = products.build_blocks(
        layout.row_ptr, layout.col_idx, None, cols, 512, layout.forward.col_block
    )
    forward = layout.forward
    for mine, theirs in zip((forward.seg_ptr, forward.col, forward.src), twin, strict=True):
        assert torch.equal(mine, theirs)


@QUICK
@given(SHAPES, st.integers(0, 99))
def test_entries_are_matched_to_the_layout_before(path, shape, seed):
    rows, cols, _ = shape
    old_mask, _, old, _ = make(rows, cols, 0.3, seed)
    new_mask, _, new, _ = make(rows, cols, 0.3, seed + 1)
    positions = torch.full((rows, cols), -1, dtype=torch.int32)
    positions[old_mask] = torch.arange(old.nnz, dtype=torch.int32)
    assert torch.equal(csr.match_entries(old, new), positions[new_mask])


@pytest.mark.parametrize(
    ("row_ptr", "col_idx", "problem"),
    [
        ([0, 2, 3], [0, 1, 9], r"col_idx must be in 0\.\.3"),
        ([0, 2, 3], [0, 1, -1], r"col_idx must be in 0\.\.3"),
        ([0, 2, 3], [1, 0, 2], "col_idx must ascend within each row"),
        ([0, 2, 3], [1, 1, 2], "col_idx must ascend within each row"),
        ([0, 3, 2], [0, 1, 2], "row_ptr must start at 0 and end at the 3 entries of col_idx"),
        ([0, 4, 3], [0, 1, 2], "row_ptr must not decrease"),
        ([1, 2, 3], [0, 1, 2], "row_ptr must start at 0"),
        ([0, 2, 9], [0, 1, 2], "row_ptr must start at 0 and end at the 3"),
    ],
)
def test_a_bad_index_raises(path, row_ptr, col_idx, problem):
    pointers, columns = torch.tensor(row_ptr).int(), torch.tensor(col_idx).int()
    with pytest.raises(ValueError, match=problem):
        csr.layout_from_csr(pointers, columns, 4)


def test_same_bits_for_any_number_of_threads():
    _, _, layout, values = make(300, 200, 0.1, 0)
    x, dy = torch.randn(500, 200), torch.randn(500, 300)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append((csr.input_grad(dy, values, layout), csr.values_grad(dy, x, layout)))
    torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


FORK = """
import os, sys, torch
from sparsewright.kernels import csr
torch.set_num_threads(2)
layout = csr.layout_from_mask(torch.rand(600, 500) < 0.1)
values, x = torch.randn(layout.nnz), torch.randn(400, 500)
expected = csr.linear(x, values, layout, None).numpy().tobytes()
child = os.fork()
# Compare without torch: its own worker threads do not survive the fork.
same = csr.linear(x, values, layout, None).numpy().tobytes() == expected
if child == 0:
    os._exit(0 if same else 3)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 4)
"""


@pytest.mark.skipif(
    find_spec("sparsewright.kernels._native") is None, reason="built without a C++ compiler"
)
def test_threads_work_after_a_fork():
    env = {**os.environ, "SPARSEWRIGHT_KERNELS": "auto"}
    done = subprocess.run([sys.executable, "-c", FORK], timeout=60, env=env)
    assert done.returncode == 0


def test_calls_from_several_threads_at_once():
    _, _, layout, values = make(300, 200, 0.1, 0)
    inputs = [torch.randn(300, 200) for _ in range(4)]
    expected = [csr.linear(x, values, layout, None) for x in inputs]
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            results = pool.map(lambda x: csr.linear(x, values, layout, None), inputs)
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    torch.set_num_threads(1)


def test_bfloat16_values(path):
    _, weight, layout, values = make(32, 64, 0.5, 0)
    x, dy = torch.randn(20, 64).bfloat16(), torch.randn(20, 32).bfloat16()
    weight, values = weight.bfloat16().double(), values.bfloat16()
    for tokens in (1, 20):
        y = csr.linear(x[:tokens], values, layout, None)
        dx = csr.input_grad(dy[:tokens], values, layout)
        close = {"atol": 2e-2, "rtol": 2e-2}
        torch.testing.assert_close(y.double(), x[:tokens].double() @ weight.T, **close)
        torch.testing.assert_close(dx.double(), dy[:tokens].double() @ weight, **close)


class Subclass(torch.Tensor):
    """A tensor subclass, which the kernels must not read."""


def test_what_the_kernels_do_not_read_takes_the_reference():
    _, weight, layout, values = make(6, 1, 0.9, 0)
    before = sum(native.info()["fallbacks"].values())
    for x in (torch._neg_view(torch.randn(3, 1)), torch.randn(3, 1).as_subclass(Subclass)):
        y = csr.linear(x, values, layout, None)
        torch.testing.assert_close(y.as_subclass(torch.Tensor), x @ weight.T, check_dtype=True)
    assert sum(native.info()["fallbacks"].values()) == before + 2


@pytest.mark.skipif(not AVAILABLE, reason="built without a C++ compiler")
def test_what_is_written_to_is_never_a_converted_copy():
    """An output of another layout raises, because the results would go into a temporary."""
    mask, weight, layout, values = make(6, 9, 0.5, 0)
    row_ptr, col_idx, b = layout.row_ptr, layout.col_idx, layout.forward
    blocks, sizes = (b.seg_ptr, b.col, b.src), (b.row_block, b.col_block)
    x, y, t_row_ptr = torch.randn(3, 9), torch.randn(3, 6), layout.transposed.seg_ptr
    calls = {  # the inputs and the outputs
        "build_row_ptr": ((mask,), (row_ptr,)),
        "build_col_idx": ((mask, row_ptr), (col_idx,)),
        "transpose_index": ((row_ptr, col_idx), (t_row_ptr, col_idx.clone(), b.src.clone())),
        "build_blocks": ((row_ptr, col_idx, None, 9, *sizes), blocks),
        "gather_values": ((values, b.src), (values.clone(),)),
        "gather_dense": ((weight, row_ptr, col_idx), (values.clone(),)),
        "scatter_mask": ((row_ptr, col_idx), (mask.clone(),)),
        "match_entries": ((row_ptr, col_idx, row_ptr, col_idx), (col_idx.clone(),)),
        "scatter_dense": ((values, row_ptr, col_idx), (weight.clone(),)),
        "spmm": ((values, *blocks, *sizes, x, None), (y,)),
        "spmm_skinny": ((values, row_ptr, col_idx, x, None), (y,)),
        "sddmm": ((*blocks, *sizes, x, y), (values.clone(),)),
    }
    for name, (read, written) in calls.items():
        kernel = getattr(native.module(), name)
        settings = {"transpose_index": ()}.get(name, (1,))  # threads and instruction set
        settings += ("auto",) if name in ("spmm", "spmm_skinny", "sddmm") else ()

        def function(*tensors, kernel=kernel, settings=settings):
            kernel(*tensors, *settings)

        function(*read, *written)
        for index, tensor in enumerate(written):
            gaps = torch.stack([tensor, tensor], -1)[..., 0]
            with pytest.raises(TypeError):
                function(*read, *written[:index], gaps, *written[index + 1 :])
