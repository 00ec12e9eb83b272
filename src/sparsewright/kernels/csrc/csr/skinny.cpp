#include <algorithm>

#include "common/parallel.h"
#include "csr/bf16.h"
#include "csr/buffer.h"
#include "csr/products.h"

namespace sparsewright {
namespace {

constexpr int64_t rows_at_once = 64;
// A second pass over the index is cheaper than four half-empty lanes.
constexpr int64_t gemv_tokens = 2;

float read(const Activations& x, int64_t i) {
    return x.bf16 ? bf16_to_float(static_cast<const uint16_t*>(x.data)[i])
                  : static_cast<const float*>(x.data)[i];
}

void write(const Activations& y, int64_t i, float value) {
    if (y.bf16)
        static_cast<uint16_t*>(y.data)[i] = float_to_bf16(value);
    else
        static_cast<float*>(y.data)[i] = value;
}

}  // namespace

void spmm_skinny(const ProductLoops& loops, const int32_t* row_ptr, const int32_t* col_idx,
                 const float* values, const Activations& x, const float* bias, const Activations& y,
                 int threads) {
    const bool gemv = x.tokens <= gemv_tokens;
    int lanes = gemv ? 1 : 4;
    while (!gemv && lanes < x.tokens) lanes *= 2;
    // Feature f of token m is at [m][f] for gemv, which reads whole tokens, otherwise at [f][m].
    auto at = [&](int64_t f, int64_t m, int64_t features) {
        return gemv ? m * features + f : f * lanes + m;
    };
    int64_t copies = gemv ? x.tokens : lanes;
    Buffer in = make_buffer(x.features * copies), out = make_buffer(y.features * copies);
    std::fill(in.get(), in.get() + x.features * copies, 0.f);
    for (int64_t m = 0; m < x.tokens; ++m)
        for (int64_t f = 0; f < x.features; ++f)
            in[at(f, m, x.features)] = read(x, m * x.features + f);
    // Work block by block, so that the second token finds the entries of a block in cache.
    parallel_for(threads, (y.features + rows_at_once - 1) / rows_at_once, [&](int64_t i, int) {
        int64_t row = i * rows_at_once, rows = std::min(rows_at_once, y.features - row);
        const float* b = bias ? bias + row : nullptr;
        if (!gemv)
            loops.spmm_skinny(rows, row_ptr + row, col_idx, values, in.get(), lanes, b,
                              out.get() + row * lanes);
        for (int64_t m = 0; gemv && m < x.tokens; ++m)
            loops.gemv(rows, row_ptr + row, col_idx, values, in.get() + m * x.features, b,
                       out.get() + m * y.features + row);
    });
    for (int64_t m = 0; m < y.tokens; ++m)
        for (int64_t f = 0; f < y.features; ++f)
            write(y, m * y.features + f, out[at(f, m, y.features)]);
}

}  // namespace sparsewright
