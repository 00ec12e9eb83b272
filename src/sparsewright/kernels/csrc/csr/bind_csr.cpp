// The bindings check sizes. Python checks the contents of an index, once per layout.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>

#include "common/torch.h"
#include "csr/layout.h"
#include "csr/products.h"

namespace nanobind::detail {

// Accepts a contiguous matrix of float32 or bfloat16.
template <>
struct type_caster<sparsewright::Activations> {
    NB_TYPE_CASTER(sparsewright::Activations, const_name("Tensor"))

    bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
        sparsewright::Tensor tensor;
        if (sparsewright::read_tensor(source, tensor)) return false;
        if (tensor.dims != 2 || !tensor.is_contiguous()) return false;
        const bool bf16 = tensor.dtype == sparsewright::Dtype::bfloat16;
        value = {tensor.data, bf16, tensor.sizes[0], tensor.sizes[1]};
        return bf16 || tensor.dtype == sparsewright::Dtype::float32;
    }
};

}  // namespace nanobind::detail

namespace sparsewright {
namespace {

using Floats = Array<const float, 1>;
using Ints = Array<const int32_t, 1>;
using Shorts = Array<const uint16_t, 1>;
using FloatsOut = Array<float, 1>;
using IntsOut = Array<int32_t, 1>;
using ShortsOut = Array<uint16_t, 1>;

void check_csr(const Ints& row_ptr, const Ints& col_idx, int64_t rows) {
    require(row_ptr.numel() == rows + 1, "row_ptr must have rows + 1 entries");
    require(row_ptr[rows] == col_idx.numel(), "row_ptr must end at nnz");
}

BlockedIndex blocked(const Ints& seg_ptr, const Shorts& col, const Ints& src, int64_t rows,
                     int64_t cols, int64_t row_block, int64_t col_block) {
    require(row_block > 0 && col_block > 0 && col_block <= 65536, "bad block sizes");
    const BlockedIndex index{rows, cols, row_block, col_block, seg_ptr.data, col.data, src.data};
    require(seg_ptr.numel() == rows * index.col_blocks() + 1, "seg_ptr has the wrong length");
    require(col.numel() == src.numel() && index.nnz() == col.numel(),
            "col and src must have nnz entries");
    return index;
}

const float* check_product(const Activations& x, const std::optional<Floats>& bias,
                           const Activations& y) {
    require(x.tokens == y.tokens, "x and y must have equally many rows");
    require(!bias || bias->numel() == y.features, "bias has the wrong length");
    return bias ? bias->data : nullptr;
}

int64_t run_row_ptr(Array<const bool, 2> mask, IntsOut row_ptr, int threads) {
    const auto [rows, cols] = mask.sizes;
    require(row_ptr.numel() == rows + 1, "row_ptr must have rows + 1 entries");
    nb::gil_scoped_release release;
    const int64_t nnz = build_row_ptr(mask.data, rows, cols, row_ptr.data, threads);
    require(nnz <= INT32_MAX, "more than 2^31 - 1 kept weights");
    return nnz;
}

void run_col_idx(Array<const bool, 2> mask, Ints row_ptr, IntsOut col_idx, int threads) {
    const auto [rows, cols] = mask.sizes;
    require(row_ptr.numel() == rows + 1, "row_ptr must have rows + 1 entries");
    nb::gil_scoped_release release;
    // Count again, because the mask may have changed since row_ptr was built.
    const std::unique_ptr<int32_t[]> counted(new int32_t[rows + 1]);
    const int64_t nnz = build_row_ptr(mask.data, rows, cols, counted.get(), threads);
    require(
        nnz == col_idx.numel() && std::equal(row_ptr.data, row_ptr.data + rows + 1, counted.get()),
        "row_ptr and col_idx must fit the mask");
    build_col_idx(mask.data, rows, cols, row_ptr.data, col_idx.data, threads);
}

void run_transpose(Ints row_ptr, Ints col_idx, IntsOut t_row_ptr, IntsOut t_col_idx, IntsOut perm) {
    const int64_t rows = row_ptr.numel() - 1, cols = t_row_ptr.numel() - 1;
    check_csr(row_ptr, col_idx, rows);
    require(t_col_idx.numel() == col_idx.numel() && perm.numel() == col_idx.numel(),
            "t_col_idx and perm must have nnz entries");
    nb::gil_scoped_release release;
    transpose_index(row_ptr.data, col_idx.data, rows, cols, t_row_ptr.data, t_col_idx.data,
                    perm.data);
}

void run_blocks(Ints row_ptr, Ints col_idx, std::optional<Ints> perm, int64_t cols,
                int64_t row_block, int64_t col_block, IntsOut seg_ptr, ShortsOut col, IntsOut src,
                int threads) {
    const int64_t rows = row_ptr.numel() - 1, nnz = col_idx.numel();
    check_csr(row_ptr, col_idx, rows);
    require(row_block > 0 && col_block > 0 && col_block <= 65536, "bad block sizes");
    const int64_t blocks = (cols + col_block - 1) / col_block;
    require(seg_ptr.numel() == rows * blocks + 1, "seg_ptr has the wrong length");
    require(col.numel() == nnz && src.numel() == nnz && (!perm || perm->numel() == nnz),
            "col, src and perm must have nnz entries");
    nb::gil_scoped_release release;
    build_blocks(row_ptr.data, col_idx.data, perm ? perm->data : nullptr, rows, cols, row_block,
                 col_block, seg_ptr.data, col.data, src.data, threads);
}

void run_gather_values(Floats values, Ints src, FloatsOut out, int threads) {
    require(values.numel() == src.numel() && out.numel() == src.numel(),
            "values, src and out must be equally long");
    nb::gil_scoped_release release;
    gather_values(values.data, src.data, src.numel(), out.data, threads);
}

void run_gather_dense(Array<const float, 2> weight, Ints row_ptr, Ints col_idx, FloatsOut values,
                      int threads) {
    const auto [rows, cols] = weight.sizes;
    check_csr(row_ptr, col_idx, rows);
    require(values.numel() == col_idx.numel(), "values must have nnz entries");
    nb::gil_scoped_release release;
    gather_dense(weight.data, row_ptr.data, col_idx.data, rows, cols, values.data, threads);
}

void run_scatter_dense(Floats values, Ints row_ptr, Ints col_idx, Array<float, 2> weight,
                       int threads) {
    const auto [rows, cols] = weight.sizes;
    check_csr(row_ptr, col_idx, rows);
    require(values.numel() == col_idx.numel(), "values must have nnz entries");
    nb::gil_scoped_release release;
    scatter_dense(values.data, row_ptr.data, col_idx.data, rows, cols, weight.data, threads);
}

void run_scatter_mask(Ints row_ptr, Ints col_idx, Array<bool, 2> mask, int threads) {
    const auto [rows, cols] = mask.sizes;
    check_csr(row_ptr, col_idx, rows);
    nb::gil_scoped_release release;
    scatter_mask(row_ptr.data, col_idx.data, rows, cols, mask.data, threads);
}

void run_match(Ints old_ptr, Ints old_col, Ints new_ptr, Ints new_col, IntsOut source,
               int threads) {
    const int64_t rows = old_ptr.numel() - 1;
    check_csr(old_ptr, old_col, rows);
    check_csr(new_ptr, new_col, rows);
    require(source.numel() == new_col.numel(), "source must have an entry for each new one");
    nb::gil_scoped_release release;
    match_entries(old_ptr.data, old_col.data, new_ptr.data, new_col.data, rows, source.data,
                  threads);
}

void run_spmm(Floats values, Ints seg_ptr, Shorts col, Ints src, int64_t row_block,
              int64_t col_block, Activations x, std::optional<Floats> bias, Activations y,
              int threads, const std::string& isa) {
    const float* offset = check_product(x, bias, y);
    const auto index = blocked(seg_ptr, col, src, y.features, x.features, row_block, col_block);
    require(values.numel() == col.numel(), "values must have nnz entries");
    const ProductLoops& loops = product_loops(isa_from_name(isa));
    nb::gil_scoped_release release;
    spmm(loops, index, values.data, x, offset, y, threads);
}

void run_spmm_skinny(Floats values, Ints row_ptr, Ints col_idx, Activations x,
                     std::optional<Floats> bias, Activations y, int threads,
                     const std::string& isa) {
    const float* offset = check_product(x, bias, y);
    require(x.tokens <= 16, "x and y must have at most 16 rows");
    check_csr(row_ptr, col_idx, y.features);
    require(values.numel() == col_idx.numel(), "values must have nnz entries");
    const ProductLoops& loops = product_loops(isa_from_name(isa));
    nb::gil_scoped_release release;
    spmm_skinny(loops, row_ptr.data, col_idx.data, values.data, x, offset, y, threads);
}

void run_sddmm(Ints seg_ptr, Shorts col, Ints src, int64_t row_block, int64_t col_block,
               Activations x, Activations dy, FloatsOut grad, int threads, const std::string& isa) {
    require(x.tokens == dy.tokens, "x and dy must have equally many rows");
    const auto index = blocked(seg_ptr, col, src, dy.features, x.features, row_block, col_block);
    require(grad.numel() == col.numel(), "grad must have nnz entries");
    const ProductLoops& loops = product_loops(isa_from_name(isa));
    nb::gil_scoped_release release;
    sddmm(loops, index, x, dy, grad.data, threads);
}

}  // namespace

void bind_csr(nb::module_& m) {
    m.def("build_row_ptr", &run_row_ptr);
    m.def("build_col_idx", &run_col_idx);
    m.def("transpose_index", &run_transpose);
    m.def("build_blocks", &run_blocks);
    m.def("gather_values", &run_gather_values);
    m.def("gather_dense", &run_gather_dense);
    m.def("scatter_dense", &run_scatter_dense);
    m.def("scatter_mask", &run_scatter_mask);
    m.def("match_entries", &run_match);
    m.def("spmm", &run_spmm);
    m.def("spmm_skinny", &run_spmm_skinny);
    m.def("sddmm", &run_sddmm);
}

}  // namespace sparsewright
