// The three operations of a sparse linear layer, on float32 or bfloat16 activations.
#pragma once

#include <cstdint>

#include "csr/layout.h"
#include "csr/product_table.h"

namespace sparsewright {

// A contiguous [tokens, features] matrix of float32 or bfloat16.
struct Activations {
    void* data;
    bool bf16;
    int64_t tokens, features;
};

// Computes y = x W^T + bias. `values` are in the order of the index's entries (see gather_values);
// bias may be null. With the index of W^T, it computes dx = dy W. The result does not depend on the
// thread count.
void spmm(const ProductLoops& loops, const BlockedIndex& index, const float* values,
          const Activations& x, const float* bias, const Activations& y, int threads);

// Computes dvalues[src[e]] = sum_m dy[m, row(e)] * x[m, col(e)]. The result does not depend on the
// thread count.
void sddmm(const ProductLoops& loops, const BlockedIndex& index, const Activations& x,
           const Activations& dy, float* dvalues, int threads);

// Computes y = x W^T + bias for at most 16 tokens, directly from CSR.
void spmm_skinny(const ProductLoops& loops, const int32_t* row_ptr, const int32_t* col_idx,
                 const float* values, const Activations& x, const float* bias, const Activations& y,
                 int threads);

}  // namespace sparsewright
