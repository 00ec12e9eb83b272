// Index layouts of a sparse weight [N, K]. All functions except gather_values run once per mask
// change.
#pragma once

#include <algorithm>
#include <cstdint>

#include "csr/product_table.h"

namespace sparsewright {

// CSR entries reordered cell by cell: by row block, then column block, then row of the cell, then
// column. The entries of segment s = (cell, row) are seg_ptr[s] .. seg_ptr[s + 1].
struct BlockedIndex {
    int64_t rows, cols, row_block, col_block;
    const int32_t* seg_ptr;  // [rows * col_blocks() + 1]
    const uint16_t* col;     // [nnz], counted from the first column of the cell
    const int32_t* src;      // [nnz], the entry's position in `values`

    int64_t row_blocks() const { return (rows + row_block - 1) / row_block; }
    int64_t col_blocks() const { return (cols + col_block - 1) / col_block; }
    int64_t block_rows(int64_t rb) const { return std::min(row_block, rows - rb * row_block); }
    int64_t nnz() const { return rows && cols ? seg_ptr[rows * col_blocks()] : 0; }
    Cell cell(int64_t rb, int64_t cb) const {
        int64_t height = block_rows(rb);
        return {height, seg_ptr + rb * row_block * col_blocks() + cb * height, col};
    }
};

// Counts the kept weights of every row, and returns nnz.
int64_t build_row_ptr(const bool* mask, int64_t rows, int64_t cols, int32_t* row_ptr, int threads);
void build_col_idx(const bool* mask, int64_t rows, int64_t cols, const int32_t* row_ptr,
                   int32_t* col_idx, int threads);
void transpose_index(const int32_t* row_ptr, const int32_t* col_idx, int64_t rows, int64_t cols,
                     int32_t* t_row_ptr, int32_t* t_col_idx, int32_t* perm);
// If perm is null, values are in the order of col_idx.
void build_blocks(const int32_t* row_ptr, const int32_t* col_idx, const int32_t* perm, int64_t rows,
                  int64_t cols, int64_t row_block, int64_t col_block, int32_t* seg_ptr,
                  uint16_t* col, int32_t* src, int threads);

void gather_values(const float* values, const int32_t* src, int64_t nnz, float* out, int threads);
void gather_dense(const float* weight, const int32_t* row_ptr, const int32_t* col_idx, int64_t rows,
                  int64_t cols, float* values, int threads);
void scatter_mask(const int32_t* row_ptr, const int32_t* col_idx, int64_t rows, int64_t cols,
                  bool* mask, int threads);
// Finds the position in the old index of each entry of the new index, or -1, so that values can be
// moved to a new mask.
void match_entries(const int32_t* old_ptr, const int32_t* old_col, const int32_t* new_ptr,
                   const int32_t* new_col, int64_t rows, int32_t* source, int threads);
void scatter_dense(const float* values, const int32_t* row_ptr, const int32_t* col_idx,
                   int64_t rows, int64_t cols, float* weight, int threads);

}  // namespace sparsewright
