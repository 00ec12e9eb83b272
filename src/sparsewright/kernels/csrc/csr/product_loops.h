// The product loops, written once with Vec, which each instruction set includes before this file.
#pragma once

#include <cstring>
#include <type_traits>

#include "csr/product_table.h"

namespace sparsewright {
namespace {

constexpr int width = Vec::width;
constexpr int group = 4;  // connections whose dot products are reduced together

// Runs f with the number of vectors in a tile as a compile-time constant.
template <class F>
void with_vectors(int lanes, F f) {
    switch (lanes / width) {
        case 1:
            return f(std::integral_constant<int, 1>());
        case 2:
            return f(std::integral_constant<int, 2>());
        case 4:
            return f(std::integral_constant<int, 4>());
        default:
            return f(std::integral_constant<int, 8>());
    }
}

template <class T>
void pack(const T* x, int64_t ld, int tokens, int64_t features, int lanes, float* tile) {
    for (int m = 0; m < lanes; m += width) {
        for (int64_t f = 0; f < features; f += width) {
            int wide = features - f < width ? int(features - f) : width;
            Vec t[width];
            T edge[width] = {};
            for (int i = 0; i < width; ++i) {
                const T* row = x + int64_t(m + i) * ld + f;
                if (m + i >= tokens) {
                    t[i] = Vec::zero();
                } else if (wide == width) {
                    t[i] = Vec::load(row);
                } else {
                    std::memcpy(edge, row, wide * sizeof(T));
                    t[i] = Vec::load(edge);
                }
            }
            transpose(t);
            for (int j = 0; j < wide; ++j) t[j].store(tile + (f + j) * lanes + m);
        }
    }
}

template <class T>
void unpack(const float* tile, int lanes, int tokens, int64_t features, T* y, int64_t ld) {
    for (int m = 0; m < tokens; m += width) {
        int height = tokens - m < width ? tokens - m : width;
        for (int64_t f = 0; f < features; f += width) {
            int wide = features - f < width ? int(features - f) : width;
            Vec t[width];
            for (int j = 0; j < width; ++j)
                t[j] = j < wide ? Vec::load(tile + (f + j) * lanes + m) : Vec::zero();
            transpose(t);
            for (int i = 0; i < height; ++i) {
                T* row = y + int64_t(m + i) * ld + f;
                if (wide == width) {
                    t[i].store(row);
                } else {
                    T edge[width];
                    t[i].store(edge);
                    std::memcpy(row, edge, wide * sizeof(T));
                }
            }
        }
    }
}

template <int NV>
void spmm_rows(const Cell& cell, const float* values, const float* x, bool first, const float* bias,
               float* acc) {
    constexpr int lanes = NV * width;
    for (int64_t r = 0; r < cell.rows; ++r, acc += lanes) {
        Vec a[NV];
        if (first) {
            for (int v = 0; v < NV; ++v) a[v] = Vec::broadcast(bias ? bias[r] : 0.f);
        } else {
            for (int v = 0; v < NV; ++v) a[v] = Vec::load(acc + v * width);
        }
        for (int64_t e = cell.seg[r], end = cell.seg[r + 1]; e < end; ++e) {
            Vec w = Vec::broadcast(values + e);
            const float* column = x + size_t(cell.col[e]) * lanes;
            for (int v = 0; v < NV; ++v) a[v] = fma(w, Vec::load(column + v * width), a[v]);
        }
        for (int v = 0; v < NV; ++v) a[v].store(acc + v * width);
    }
}

void spmm_cell(const Cell& cell, const float* values, const float* x, int lanes, bool first,
               const float* bias, float* acc) {
    with_vectors(lanes, [&](auto nv) { spmm_rows<nv>(cell, values, x, first, bias, acc); });
}

template <int NV>
Vec dot(const Vec (&d)[NV], const float* column) {
    Vec s = Vec::zero();
    for (int v = 0; v < NV; ++v) s = fma(d[v], Vec::load(column + v * width), s);
    return s;
}

template <int NV>
void sddmm_rows(const Cell& cell, const float* x, const float* dy, float* dvalues) {
    constexpr int lanes = NV * width;
    for (int64_t r = 0; r < cell.rows; ++r, dy += lanes) {
        int64_t e = cell.seg[r], end = cell.seg[r + 1];
        if (e == end) continue;
        Vec d[NV];
        for (int v = 0; v < NV; ++v) d[v] = Vec::load(dy + v * width);
        auto column = [&](int64_t i) { return x + size_t(cell.col[i]) * lanes; };
        for (; e + group <= end; e += group) {
            Vec t[group] = {dot(d, column(e)), dot(d, column(e + 1)), dot(d, column(e + 2)),
                            dot(d, column(e + 3))};
            add_sums(t, dvalues + e);
        }
        for (; e < end; ++e) dvalues[e] += sum(dot(d, column(e)));
    }
}

void sddmm_cell(const Cell& cell, const float* x, const float* dy, int lanes, float* dvalues) {
    with_vectors(lanes, [&](auto nv) { sddmm_rows<nv>(cell, x, dy, dvalues); });
}

// Uses four lanes on every ISA. Filled by scalar loads, they are faster than the gather
// instructions of Zen 4, and leave at most three remaining entries per row. Four accumulators hide
// the latency of the FMA.
void gemv(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values,
          const float* x, const float* bias, float* y) {
    typedef float Lanes __attribute__((vector_size(16)));
    for (int64_t r = 0; r < rows; ++r) {
        int64_t e = row_ptr[r], end = row_ptr[r + 1];
        Lanes a[4] = {};
        auto step = [&](int c, int64_t at) {
            const int32_t* i = col_idx + at;
            Lanes w;
            std::memcpy(&w, values + at, sizeof w);
            a[c] += w * Lanes{x[i[0]], x[i[1]], x[i[2]], x[i[3]]};
        };
        for (; e + 16 <= end; e += 16)
            for (int c = 0; c < 4; ++c) step(c, e + 4 * c);
        for (; e + 4 <= end; e += 4) step(0, e);
        a[0] = (a[0] + a[1]) + (a[2] + a[3]);
        float s = (a[0][0] + a[0][1]) + (a[0][2] + a[0][3]);
        for (; e < end; ++e) s += values[e] * x[col_idx[e]];
        y[r] = s + (bias ? bias[r] : 0.f);
    }
}

template <int L>
void skinny_rows(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values,
                 const float* x, const float* bias, float* y) {
    typedef float Lanes __attribute__((vector_size(4 * L)));
    for (int64_t r = 0; r < rows; ++r) {
        int64_t e = row_ptr[r], end = row_ptr[r + 1];
        Lanes a[4] = {};
        auto step = [&](int c, int64_t at) {
            Lanes column;
            std::memcpy(&column, x + size_t(col_idx[at]) * L, sizeof column);
            a[c] += values[at] * column;
        };
        for (; e + 4 <= end; e += 4)
            for (int c = 0; c < 4; ++c) step(c, e + c);
        for (; e < end; ++e) step(0, e);
        a[0] = (a[0] + a[1]) + (a[2] + a[3]) + (bias ? bias[r] : 0.f);
        std::memcpy(y + r * L, a, sizeof(Lanes));
    }
}

void spmm_skinny(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values,
                 const float* x, int lanes, const float* bias, float* y) {
    auto* run = lanes == 4 ? skinny_rows<4> : lanes == 8 ? skinny_rows<8> : skinny_rows<16>;
    run(rows, row_ptr, col_idx, values, x, bias, y);
}

constexpr ProductLoops make_product_loops(int spmm_lanes, int sddmm_lanes) {
    return {width,          spmm_lanes,    sddmm_lanes,      pack<float>,
            pack<uint16_t>, unpack<float>, unpack<uint16_t>, spmm_cell,
            sddmm_cell,     gemv,          spmm_skinny};
}

}  // namespace
}  // namespace sparsewright
