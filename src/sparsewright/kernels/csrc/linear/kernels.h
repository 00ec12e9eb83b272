// The table of per-ISA kernels. Tiles are feature-major: element (feature f, token m) of a tile
// of `lanes` tokens lies at [f * lanes + m]; lanes is width, 2, 4 or 8 times width.
#pragma once
#include <cstdint>

namespace sparsewright {

// One (row block, column block) cell of a BlockedIndex: entries seg[r] .. seg[r + 1] belong to
// row r of the cell; col counts from the first column of the cell.
struct Cell {
  int64_t rows;
  const int32_t* seg;
  const uint16_t* col;
};

struct Kernels {
  const char* name;
  int width;        // floats in a vector
  int spmm_lanes;   // tokens in a full spmm tile
  int sddmm_lanes;  // tokens in a full sddmm tile

  // [tokens, features] rows with leading dimension ld -> tile; missing tokens become zeros.
  void (*pack_f32)(const float* x, int64_t ld, int tokens, int64_t features, int lanes, float* tile);
  void (*pack_bf16)(const uint16_t* x, int64_t ld, int tokens, int64_t features, int lanes, float* tile);
  void (*unpack_f32)(const float* tile, int lanes, int tokens, int64_t features, float* y, int64_t ld);
  void (*unpack_bf16)(const float* tile, int lanes, int tokens, int64_t features, uint16_t* y, int64_t ld);

  // acc[r] += sum_e values[e] * x[col[e]]; with `first` acc starts from bias (or zero).
  void (*spmm_cell)(const Cell& cell, const float* values, const float* x, int lanes, bool first,
                    const float* bias, float* acc);
  // dvalues[e] += <dy[r], x[col[e]]>.
  void (*sddmm_cell)(const Cell& cell, const float* x, const float* dy, int lanes, float* dvalues);

  // One token, straight from CSR.
  void (*gemv)(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values, const float* x,
               const float* bias, float* y);
  // Few tokens, straight from CSR: x is [K, lanes], y is [rows, lanes], lanes in {4, 8, 16}.
  void (*spmm_skinny)(int64_t rows, const int32_t* row_ptr, const int32_t* col_idx, const float* values,
                      const float* x, int lanes, const float* bias, float* y);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

// "auto" (the best the CPU has), "avx512", "avx2" or "portable"; throws if the CPU lacks it.
const Kernels& choose_kernels(const char* isa);

}  // namespace sparsewright
