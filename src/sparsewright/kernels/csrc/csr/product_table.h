// The product loops that are compiled for each instruction set. Tiles are feature-major: element
// (feature f, token m) of a tile of `lanes` tokens is at [f * lanes + m]. `lanes` is 1, 2, 4 or 8
// times width.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace sparsewright {

// One (row block, column block) cell of a BlockedIndex. Entries seg[r] .. seg[r + 1] belong to row
// r of the cell; col counts from the cell's first column.
struct Cell {
    int64_t rows;
    const int32_t* seg;
    const uint16_t* col;
};

struct ProductLoops {
    int width;        // floats in a vector
    int spmm_lanes;   // tokens in a full spmm tile
    int sddmm_lanes;  // tokens in a full sddmm tile

    // Packs [tokens, features] rows with leading dimension ld into a tile; missing tokens become 0.
    void (*pack_f32)(const float* x, int64_t ld, int tokens, int64_t features, int lanes,
                     float* tile);
    void (*pack_bf16)(const uint16_t* x, int64_t ld, int tokens, int64_t features, int lanes,
                      float* tile);
    void (*unpack_f32)(const float* tile, int lanes, int tokens, int64_t features, float* y,
                       int64_t ld);
    void (*unpack_bf16)(const float* tile, int lanes, int tokens, int64_t features, uint16_t* y,
                        int64_t ld);

    // acc[r] += sum_e values[e] * x[col[e]]. If `first` is set, acc starts from bias (or zero).
    void (*spmm_cell)(const Cell& cell, const float* values, const float* x, int lanes, bool first,
                      const float* bias, float* acc);
    // dvalues[e] += <dy[r], x[col[e]]>.
    void (*sddmm_cell)(const Cell& cell, const float* x, const float* dy, int lanes,
                       float* dvalues);

    // Multiplies one token, directly from CSR.
    void (*gemv)(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values,
                 const float* x, const float* bias, float* y);
    // Multiplies few tokens, directly from CSR: x [K, lanes], y [rows, lanes], lanes in {4, 8, 16}.
    void (*spmm_skinny)(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx,
                        const float* values, const float* x, int lanes, const float* bias,
                        float* y);
};

// Defined in csr_portable.cpp, csr_avx2.cpp and csr_avx512.cpp.
const ProductLoops& product_loops(Portable);
const ProductLoops& product_loops(Avx2);
const ProductLoops& product_loops(Avx512);

inline const ProductLoops& product_loops(Isa isa) {
    return with_isa(isa, [](auto which) -> const ProductLoops& { return product_loops(which); });
}

}  // namespace sparsewright
