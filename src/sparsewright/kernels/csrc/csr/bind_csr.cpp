// Python bindings. Sizes are checked here; index contents by check_index and check_blocks, once per
// layout. An array that is written to is never converted (noconvert): results would go to a
// temporary.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "csr/layout.h"
#include "csr/products.h"

namespace nb = nanobind;
using namespace sparsewright;

namespace {

template <class T, int D>
using Array = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
using Floats = Array<const float, 1>;
using Ints = Array<const int32_t, 1>;
using Shorts = Array<const uint16_t, 1>;
using MaybeFloats = std::optional<Floats>;
using Any = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyConst = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

template <class A>
Activations activations(const A& a, int64_t features, const char* message) {
    bool bf16 = a.dtype().code == uint8_t(nb::dlpack::dtype_code::Bfloat) && a.dtype().bits == 16;
    require(bf16 || a.dtype() == nb::dtype<float>(), "activations must be float32 or bfloat16");
    require(int64_t(a.shape(1)) == features, message);
    return {const_cast<void*>(static_cast<const void*>(a.data())), bf16, int64_t(a.shape(0)),
            features};
}

BlockedIndex blocked(Ints seg_ptr, Shorts col, Ints src, int64_t rows, int64_t cols,
                     int64_t row_block, int64_t col_block) {
    require(rows >= 0 && cols >= 0 && row_block > 0 && col_block > 0 && col_block <= 65536,
            "bad block sizes");
    BlockedIndex index{rows, cols, row_block, col_block, seg_ptr.data(), col.data(), src.data()};
    require(int64_t(seg_ptr.size()) == rows * index.col_blocks() + 1,
            "seg_ptr has the wrong length");
    require(col.size() == src.size() && index.nnz() == int64_t(col.size()),
            "col and src must have nnz entries");
    return index;
}

const float* bias_pointer(const MaybeFloats& bias, int64_t rows) {
    require(!bias || int64_t(bias->size()) == rows, "bias has the wrong length");
    return bias ? bias->data() : nullptr;
}

void check_csr(const Ints& row_ptr, size_t nnz) {
    require(row_ptr.size() >= 1 && row_ptr(row_ptr.size() - 1) == int64_t(nnz),
            "row_ptr must end at nnz");
}

void raise_if(const char* problem) {
    if (problem) throw std::invalid_argument(problem);
}

void bind_layout(nb::module_& m) {
    m.def(
        "build_row_ptr",
        [](Array<const bool, 2> mask, Array<int32_t, 1> row_ptr, int threads) {
            require(row_ptr.size() == mask.shape(0) + 1, "row_ptr must have rows + 1 entries");
            nb::gil_scoped_release release;
            int64_t nnz =
                build_row_ptr(mask.data(), mask.shape(0), mask.shape(1), row_ptr.data(), threads);
            require(nnz <= INT32_MAX, "more than 2^31 - 1 kept weights");
            return nnz;
        },
        nb::arg("mask"), nb::arg("row_ptr").noconvert(), nb::arg("threads") = 1);
    m.def(
        "build_col_idx",
        [](Array<const bool, 2> mask, Ints row_ptr, Array<int32_t, 1> col_idx, int threads) {
            require(row_ptr.size() == mask.shape(0) + 1, "row_ptr must have rows + 1 entries");
            nb::gil_scoped_release release;
            // Counted again: the mask may have changed since row_ptr was built.
            std::unique_ptr<int32_t[]> counted(new int32_t[row_ptr.size()]);
            build_row_ptr(mask.data(), mask.shape(0), mask.shape(1), counted.get(), threads);
            require(std::equal(counted.get(), counted.get() + row_ptr.size(), row_ptr.data()) &&
                        counted[row_ptr.size() - 1] == int64_t(col_idx.size()),
                    "row_ptr and col_idx must fit the mask");
            build_col_idx(mask.data(), mask.shape(0), mask.shape(1), row_ptr.data(), col_idx.data(),
                          threads);
        },
        nb::arg("mask"), nb::arg("row_ptr"), nb::arg("col_idx").noconvert(),
        nb::arg("threads") = 1);
    m.def(
        "transpose_index",
        [](Ints row_ptr, Ints col_idx, Array<int32_t, 1> t_row_ptr, Array<int32_t, 1> t_col_idx,
           Array<int32_t, 1> perm) {
            check_csr(row_ptr, col_idx.size());
            require(t_row_ptr.size() >= 1 && t_col_idx.size() == col_idx.size() &&
                        perm.size() == col_idx.size(),
                    "t_col_idx and perm must have nnz entries");
            nb::gil_scoped_release release;
            int64_t rows = row_ptr.size() - 1, cols = t_row_ptr.size() - 1;
            raise_if(check_index(row_ptr.data(), col_idx.data(), col_idx.size(), rows, cols));
            transpose_index(row_ptr.data(), col_idx.data(), rows, cols, t_row_ptr.data(),
                            t_col_idx.data(), perm.data());
        },
        nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("t_row_ptr").noconvert(),
        nb::arg("t_col_idx").noconvert(), nb::arg("perm").noconvert());
    m.def(
        "build_blocks",
        [](Ints row_ptr, Ints col_idx, std::optional<Ints> perm, int64_t cols, int64_t row_block,
           int64_t col_block, Array<int32_t, 1> seg_ptr, Array<uint16_t, 1> col,
           Array<int32_t, 1> src, int threads) {
            int64_t rows = int64_t(row_ptr.size()) - 1;
            check_csr(row_ptr, col_idx.size());
            require(cols >= 0 && row_block > 0 && col_block > 0 && col_block <= 65536,
                    "bad block sizes");
            int64_t blocks = (cols + col_block - 1) / col_block;
            require(int64_t(seg_ptr.size()) == rows * blocks + 1, "seg_ptr has the wrong length");
            require(col.size() == col_idx.size() && src.size() == col_idx.size() &&
                        (!perm || perm->size() == col_idx.size()),
                    "col, src and perm must have nnz entries");
            nb::gil_scoped_release release;
            raise_if(check_index(row_ptr.data(), col_idx.data(), col_idx.size(), rows, cols));
            build_blocks(row_ptr.data(), col_idx.data(), perm ? perm->data() : nullptr, rows, cols,
                         row_block, col_block, seg_ptr.data(), col.data(), src.data(), threads);
        },
        nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("perm").none(), nb::arg("cols"),
        nb::arg("row_block"), nb::arg("col_block"), nb::arg("seg_ptr").noconvert(),
        nb::arg("col").noconvert(), nb::arg("src").noconvert(), nb::arg("threads") = 1);
}

void bind_values(nb::module_& m) {
    m.def(
        "gather_values",
        [](Floats values, Ints src, Array<float, 1> out, int threads) {
            require(values.size() == src.size() && out.size() == src.size(),
                    "values, src and out must be equally long");
            nb::gil_scoped_release release;
            gather_values(values.data(), src.data(), src.size(), out.data(), threads);
        },
        nb::arg("values"), nb::arg("src"), nb::arg("out").noconvert(), nb::arg("threads") = 1);
    m.def(
        "gather_dense",
        [](Array<const float, 2> weight, Ints row_ptr, Ints col_idx, Array<float, 1> values,
           int threads) {
            require(row_ptr.size() == weight.shape(0) + 1 && values.size() == col_idx.size(),
                    "sizes do not fit");
            check_csr(row_ptr, col_idx.size());
            nb::gil_scoped_release release;
            gather_dense(weight.data(), row_ptr.data(), col_idx.data(), weight.shape(0),
                         weight.shape(1), values.data(), threads);
        },
        nb::arg("weight"), nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("values").noconvert(),
        nb::arg("threads") = 1);
    m.def(
        "scatter_mask",
        [](Ints row_ptr, Ints col_idx, Array<bool, 2> mask, int threads) {
            int64_t rows = mask.shape(0), cols = mask.shape(1);
            require(int64_t(row_ptr.size()) == rows + 1, "sizes do not fit");
            nb::gil_scoped_release release;
            raise_if(check_index(row_ptr.data(), col_idx.data(), col_idx.size(), rows, cols));
            scatter_mask(row_ptr.data(), col_idx.data(), rows, cols, mask.data(), threads);
        },
        nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("mask").noconvert(),
        nb::arg("threads") = 1);
    m.def(
        "match_entries",
        [](Ints old_ptr, Ints old_col, Ints new_ptr, Ints new_col, Array<int32_t, 1> source,
           int threads) {
            require(old_ptr.size() == new_ptr.size() && source.size() == new_col.size(),
                    "sizes do not fit");
            check_csr(old_ptr, old_col.size());
            check_csr(new_ptr, new_col.size());
            nb::gil_scoped_release release;
            match_entries(old_ptr.data(), old_col.data(), new_ptr.data(), new_col.data(),
                          int64_t(old_ptr.size()) - 1, source.data(), threads);
        },
        nb::arg("old_ptr"), nb::arg("old_col"), nb::arg("new_ptr"), nb::arg("new_col"),
        nb::arg("source").noconvert(), nb::arg("threads") = 1);
    m.def(
        "scatter_dense",
        [](Floats values, Ints row_ptr, Ints col_idx, Array<float, 2> weight, int threads) {
            require(row_ptr.size() == weight.shape(0) + 1 && values.size() == col_idx.size(),
                    "sizes do not fit");
            check_csr(row_ptr, col_idx.size());
            nb::gil_scoped_release release;
            scatter_dense(values.data(), row_ptr.data(), col_idx.data(), weight.shape(0),
                          weight.shape(1), weight.data(), threads);
        },
        nb::arg("values"), nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("weight").noconvert(),
        nb::arg("threads") = 1);
}

void bind_ops(nb::module_& m) {
    m.def(
        "spmm",
        [](Floats values, Ints seg_ptr, Shorts col, Ints src, int64_t row_block, int64_t col_block,
           AnyConst x, MaybeFloats bias, Any y, int threads, const std::string& isa) {
            int64_t rows = y.shape(1), cols = x.shape(1);
            BlockedIndex index = blocked(seg_ptr, col, src, rows, cols, row_block, col_block);
            require(values.size() == col.size(), "values must have nnz entries");
            Activations in = activations(x, cols, "x has the wrong width"),
                        out = activations(y, rows, "y is wrong");
            require(in.tokens == out.tokens, "x and y must have equally many rows");
            const float* b = bias_pointer(bias, rows);
            const ProductLoops& loops = product_loops(isa_from_name(isa));
            nb::gil_scoped_release release;
            spmm(loops, index, values.data(), in, b, out, threads);
        },
        nb::arg("values"), nb::arg("seg_ptr"), nb::arg("col"), nb::arg("src"), nb::arg("row_block"),
        nb::arg("col_block"), nb::arg("x"), nb::arg("bias").none(), nb::arg("y").noconvert(),
        nb::arg("threads") = 1, nb::arg("isa") = "auto");
    m.def(
        "spmm_skinny",
        [](Floats values, Ints row_ptr, Ints col_idx, AnyConst x, MaybeFloats bias, Any y,
           int threads, const std::string& isa) {
            int64_t rows = y.shape(1), cols = x.shape(1);
            check_csr(row_ptr, col_idx.size());
            require(int64_t(row_ptr.size()) == rows + 1 && values.size() == col_idx.size(),
                    "sizes do not fit");
            Activations in = activations(x, cols, "x has the wrong width"),
                        out = activations(y, rows, "y is wrong");
            require(in.tokens == out.tokens && in.tokens <= 16,
                    "x and y must have equally many rows, at most 16");
            const float* b = bias_pointer(bias, rows);
            const ProductLoops& loops = product_loops(isa_from_name(isa));
            nb::gil_scoped_release release;
            spmm_skinny(loops, row_ptr.data(), col_idx.data(), values.data(), in, b, out, threads);
        },
        nb::arg("values"), nb::arg("row_ptr"), nb::arg("col_idx"), nb::arg("x"),
        nb::arg("bias").none(), nb::arg("y").noconvert(), nb::arg("threads") = 1,
        nb::arg("isa") = "auto");
    m.def(
        "sddmm",
        [](Ints seg_ptr, Shorts col, Ints src, int64_t row_block, int64_t col_block, AnyConst x,
           AnyConst dy, Array<float, 1> dvalues, int threads, const std::string& isa) {
            int64_t rows = dy.shape(1), cols = x.shape(1);
            BlockedIndex index = blocked(seg_ptr, col, src, rows, cols, row_block, col_block);
            require(dvalues.size() == col.size(), "dvalues must have nnz entries");
            Activations in = activations(x, cols, "x has the wrong width"),
                        grad = activations(dy, rows, "dy is wrong");
            require(in.tokens == grad.tokens, "x and dy must have equally many rows");
            const ProductLoops& loops = product_loops(isa_from_name(isa));
            nb::gil_scoped_release release;
            sddmm(loops, index, in, grad, dvalues.data(), threads);
        },
        nb::arg("seg_ptr"), nb::arg("col"), nb::arg("src"), nb::arg("row_block"),
        nb::arg("col_block"), nb::arg("x"), nb::arg("dy"), nb::arg("dvalues").noconvert(),
        nb::arg("threads") = 1, nb::arg("isa") = "auto");
}

}  // namespace

void bind_csr(nb::module_& m) {
    bind_layout(m);
    bind_values(m);
    bind_ops(m);
}
