// The loops over blocks that are compiled for each instruction set.
#pragma once

#include "masks/pool.h"

namespace sparsewright {

// Blocks are pooled in runs. A run has `per_run` neighboring blocks of one row of blocks, or, if
// that is a whole row, `rows_per_run` rows. The last runs can be shorter.
struct PoolTask {
    const void* from;
    BlockShape shape;
    bool magnitude;
    void* out;
    int64_t per_run, rows_per_run;
    int64_t runs_across;  // in a row of blocks
};

// The most columns of a run, so that the loops work in the first-level cache. Wider blocks are
// pooled in parts.
inline constexpr int64_t run_length = 512;

// Pools the runs [begin, end). The buffer has run_length values of 8 bytes, times the number of
// levels of the tree over `high` rows.
using PoolLoop = void (*)(const PoolTask& task, int64_t begin, int64_t end, void* buffer);

struct ScoreLoops {
    PoolLoop by_pooling[3];  // sum, squares, max
};

struct PoolLoops {
    ScoreLoops scores[4];  // float16, bfloat16, float32, float64
    PoolLoop mask;
};

// Defined in pool_portable.cpp, pool_avx2.cpp and pool_avx512.cpp.
const PoolLoops& pool_loops(Portable);
const PoolLoops& pool_loops(Avx2);
const PoolLoops& pool_loops(Avx512);

}  // namespace sparsewright
