// Scores of blocks, and masks of blocks. A weight is seen as [down, high, across, wide]: block
// (d, a) has the entries [d, :, a, :].
//
// Entries are combined in a fixed order: first the `high` entries of each column, then the `wide`
// results. n values are combined in pairs of neighbors, then the pairs in pairs, and so on; a last
// value without a neighbor is carried over. Results are therefore the same for any number of
// threads and any instruction set.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

struct BlockShape {
    int64_t down, high, across, wide;

    int64_t numel() const { return down * high * across * wide; }
};

enum class Pooling { sum, squares, max };

// Sets out[d * across + a] to the sum of the block's scores, the sum of their squares, or their
// maximum, which is NaN if a score is; all in float64. If `magnitude` is true, scores are |scores|.
void pool_scores(const void* score, Dtype dtype, const BlockShape& shape, Pooling pooling,
                 bool magnitude, double* out, int threads, Isa isa);

// Sets out[d * across + a] to whether the block has a nonzero byte.
void pool_mask(const uint8_t* mask, const BlockShape& shape, uint8_t* out, int threads, Isa isa);

// Sets all entries of block (d, a) to chosen[d * across + a].
void expand_blocks(const uint8_t* chosen, const BlockShape& shape, uint8_t* out, int threads);

}  // namespace sparsewright
