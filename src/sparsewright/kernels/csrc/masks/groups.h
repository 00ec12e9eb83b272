// Selection in groups of a few entries: n of every m neighbors along one dimension of a tensor, and
// n in each row and column of 4x4 tiles. Lower indices win ties.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

inline constexpr int most_in_group = 32;
inline constexpr int tile_side = 4;

// Puts the larger of two entries of a group into place `high`.
struct Comparator {
    int high, low;
};

// Memory is a sequence of blocks [m][inner]. Group g has the m entries at position g % inner of
// block g / inner. A tile has the groups of m = 4 in four sequences of `tiles_per_row` groups each.
struct GroupTask {
    const void* score;
    const uint8_t* mask;  // or null
    uint8_t* out;
    bool fill;      // mark all entries of `mask`, and others; otherwise, mark only entries of it
    int64_t count;  // number of groups, or of tiles
    int64_t inner;
    int64_t tiles_per_row;
    int n, m;
    Dtype dtype;
    bool magnitude;
    const Comparator* network = nullptr;  // brings the n-th largest entry to place n - 1
    int comparators = 0;
};

// Marks the n largest entries of each group. Returns false if a candidate is NaN.
bool select_n_m(const GroupTask& task, int threads, Isa isa);

// Marks the pattern of each tile with the most entries of `mask`, then the largest sum of the other
// scores, exactly as kernels/reference/tiles.py. Returns false if a candidate is NaN.
bool select_tiles(const GroupTask& task, int threads, Isa isa);

}  // namespace sparsewright
