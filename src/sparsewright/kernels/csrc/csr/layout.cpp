#include "csr/layout.h"

#include <cstring>
#include <vector>

#include "common/parallel.h"

namespace sparsewright {
namespace {

constexpr int64_t row_grain = 16;
// Number of entries to prefetch, because the values are rarely in cache in a training step.
constexpr int64_t ahead = 64;

// Calls kept(col) for every true entry of a row, reading eight bytes of the mask at a time.
template <class F>
void for_each_kept(const bool* row, int64_t cols, F kept) {
    int64_t c = 0;
    for (; c + 8 <= cols; c += 8) {
        uint64_t word;
        std::memcpy(&word, row + c, 8);
        if (!word) continue;
        for (int i = 0; i < 8; ++i)
            if (row[c + i]) kept(c + i);
    }
    for (; c < cols; ++c)
        if (row[c]) kept(c);
}

}  // namespace

int64_t build_row_ptr(const bool* mask, int64_t rows, int64_t cols, int32_t* row_ptr, int threads) {
    row_ptr[0] = 0;
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            const auto* bytes = reinterpret_cast<const uint8_t*>(mask + r * cols);
            int32_t count = 0;
            for (int64_t c = 0; c < cols; ++c) count += bytes[c] != 0;
            row_ptr[r + 1] = count;
        }
    });
    int64_t nnz = 0;
    for (int64_t r = 0; r < rows; ++r) row_ptr[r + 1] = int32_t(nnz += row_ptr[r + 1]);
    return nnz;
}

void build_col_idx(const bool* mask, int64_t rows, int64_t cols, const int32_t* row_ptr,
                   int32_t* col_idx, int threads) {
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            int32_t* out = col_idx + row_ptr[r];
            for_each_kept(mask + r * cols, cols, [&](int64_t c) { *out++ = int32_t(c); });
        }
    });
}

void transpose_index(const int32_t* row_ptr, const int32_t* col_idx, int64_t rows, int64_t cols,
                     int32_t* t_row_ptr, int32_t* t_col_idx, int32_t* perm) {
    std::fill(t_row_ptr, t_row_ptr + cols + 1, 0);
    for (int64_t e = 0; e < row_ptr[rows]; ++e) ++t_row_ptr[col_idx[e] + 1];
    for (int64_t c = 0; c < cols; ++c) t_row_ptr[c + 1] += t_row_ptr[c];
    std::vector<int32_t> next(t_row_ptr, t_row_ptr + cols);
    for (int64_t r = 0; r < rows; ++r) {
        for (int32_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
            int32_t at = next[col_idx[e]]++;
            t_col_idx[at] = int32_t(r);
            perm[at] = e;
        }
    }
}

void build_blocks(const int32_t* row_ptr, const int32_t* col_idx, const int32_t* perm, int64_t rows,
                  int64_t cols, int64_t row_block, int64_t col_block, int32_t* seg_ptr,
                  uint16_t* col, int32_t* src, int threads) {
    BlockedIndex index{rows, cols, row_block, col_block, seg_ptr, col, src};
    int64_t blocks = index.col_blocks();
    // A row block has the same entries as its rows in CSR, so row blocks are independent.
    parallel_for(threads, index.row_blocks(), [&](int64_t rb, int) {
        int64_t height = index.block_rows(rb), first = rb * row_block;
        int32_t* seg = seg_ptr + first * blocks;
        std::fill(seg, seg + height * blocks, 0);
        std::vector<int32_t> next(row_ptr + first, row_ptr + first + height);
        int32_t at = row_ptr[first];
        for (int64_t cb = 0; cb < blocks; ++cb) {
            int64_t left = cb * col_block, right = left + col_block;
            for (int64_t i = 0; i < height; ++i) {
                seg[cb * height + i] = at;
                int32_t e = next[i], end = row_ptr[first + i + 1];
                for (; e < end && col_idx[e] < right; ++e, ++at) {
                    col[at] = uint16_t(col_idx[e] - left);
                    src[at] = perm ? perm[e] : e;
                }
                next[i] = e;
            }
        }
    });
    seg_ptr[rows * blocks] = row_ptr[rows];
}

void gather_values(const float* values, const int32_t* src, int64_t nnz, float* out, int threads) {
    parallel_ranges(threads, nnz, 1 << 14, [&](int64_t begin, int64_t end) {
        int64_t e = begin;
        for (; e + ahead < end; ++e) {
            __builtin_prefetch(values + src[e + ahead]);
            out[e] = values[src[e]];
        }
        for (; e < end; ++e) out[e] = values[src[e]];
    });
}

void gather_dense(const float* weight, const int32_t* row_ptr, const int32_t* col_idx, int64_t rows,
                  int64_t cols, float* values, int threads) {
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            for (int32_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e)
                values[e] = weight[r * cols + col_idx[e]];
    });
}

void scatter_mask(const int32_t* row_ptr, const int32_t* col_idx, int64_t rows, int64_t cols,
                  bool* mask, int threads) {
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        std::memset(mask + begin * cols, 0, size_t(end - begin) * cols);
        for (int64_t r = begin; r < end; ++r)
            for (int32_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e)
                mask[r * cols + col_idx[e]] = true;
    });
}

void match_entries(const int32_t* old_ptr, const int32_t* old_col, const int32_t* new_ptr,
                   const int32_t* new_col, int64_t rows, int32_t* source, int threads) {
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            int32_t o = old_ptr[r];
            for (int32_t e = new_ptr[r]; e < new_ptr[r + 1]; ++e) {
                while (o < old_ptr[r + 1] && old_col[o] < new_col[e]) ++o;
                source[e] = o < old_ptr[r + 1] && old_col[o] == new_col[e] ? o : -1;
            }
        }
    });
}

void scatter_dense(const float* values, const int32_t* row_ptr, const int32_t* col_idx,
                   int64_t rows, int64_t cols, float* weight, int threads) {
    parallel_ranges(threads, rows, row_grain, [&](int64_t begin, int64_t end) {
        std::memset(weight + begin * cols, 0, size_t(end - begin) * cols * sizeof(float));
        for (int64_t r = begin; r < end; ++r)
            for (int32_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e)
                weight[r * cols + col_idx[e]] = values[e];
    });
}

}  // namespace sparsewright
