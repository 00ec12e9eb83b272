#include "masks/pool.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "common/parallel.h"
#include "masks/pool_table.h"

namespace sparsewright {
namespace {

// Starting a thread costs as much as pooling or writing this many entries.
constexpr int64_t entries_per_thread = 1 << 16;

// Returns the number of buffers that the loops need for a tree over this many rows.
int64_t levels(int64_t high) {
    int64_t count = 1;
    for (int64_t rows = 1; rows < high; rows *= 2) ++count;
    return count;
}

int format_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float16:
            return 0;
        case Dtype::bfloat16:
            return 1;
        case Dtype::float32:
            return 2;
        case Dtype::float64:
            return 3;
        default:
            throw std::invalid_argument("score is not floating point");
    }
}

const PoolLoops& pool_loops(Isa isa) {
    return with_isa(isa, [](auto which) -> const PoolLoops& { return pool_loops(which); });
}

// Returns an equal shape with longer rows of blocks. If the order of a block's entries does not
// matter, blocks that fill whole rows become one row high.
BlockShape with_longer_rows(BlockShape shape, bool any_order) {
    if (any_order && shape.across == 1) {
        shape.wide *= shape.high;
        shape.high = 1;
    }
    if (shape.high == 1) {
        shape.across *= shape.down;
        shape.down = 1;
    }
    return shape;
}

void pool(const void* from, const BlockShape& shape, bool magnitude, void* out, PoolLoop loop,
          int threads) {
    const int64_t per_run = std::clamp<int64_t>(run_length / shape.wide, 1, shape.across);
    const int64_t rows_per_run =
        per_run < shape.across ? 1 : std::max<int64_t>(run_length / (per_run * shape.wide), 1);
    const int64_t runs_across = (shape.across + per_run - 1) / per_run;
    const PoolTask task{from, shape, magnitude, out, per_run, rows_per_run, runs_across};
    const int64_t runs = (shape.down + rows_per_run - 1) / rows_per_run * runs_across;
    const int64_t entries = rows_per_run * per_run * shape.wide * shape.high;
    parallel_ranges(threads, runs, entries_per_thread / entries, [&](int64_t begin, int64_t end) {
        std::vector<double> buffer(levels(shape.high) * run_length);
        loop(task, begin, end, buffer.data());
    });
}

// Sets the entries of neighboring blocks in one row.
void expand_row(const uint8_t* chosen, int64_t blocks, int64_t wide, uint8_t* out) {
    if (wide == 1) {
        std::memcpy(out, chosen, blocks);
        return;
    }
    int64_t b = 0;
    if (wide < 64) {  // write words past the end of a block, and the next block afterwards
        for (; (blocks - b) * wide >= wide + 8; ++b) {
            const uint64_t word = chosen[b] * 0x0101010101010101u;
            for (int64_t i = 0; i < wide; i += 8) std::memcpy(out + b * wide + i, &word, 8);
        }
    }
    for (; b < blocks; ++b) std::memset(out + b * wide, chosen[b], wide);
}

}  // namespace

void pool_scores(const void* score, Dtype dtype, const BlockShape& shape, Pooling pooling,
                 bool magnitude, double* out, int threads, Isa isa) {
    if (!shape.numel()) return;
    const ScoreLoops& loops = pool_loops(isa).scores[format_of(dtype)];
    pool(score, with_longer_rows(shape, pooling == Pooling::max), magnitude, out,
         loops.by_pooling[static_cast<int>(pooling)], threads);
}

void pool_mask(const uint8_t* mask, const BlockShape& shape, uint8_t* out, int threads, Isa isa) {
    if (!shape.numel()) return;
    pool(mask, with_longer_rows(shape, true), false, out, pool_loops(isa).mask, threads);
}

void expand_blocks(const uint8_t* chosen, const BlockShape& of, uint8_t* out, int threads) {
    if (!of.numel()) return;
    const BlockShape shape = with_longer_rows(of, true);
    if (shape.high == 1) {  // then there is one row of blocks
        const int64_t grain = entries_per_thread / shape.wide;
        return parallel_ranges(threads, shape.across, grain, [&](int64_t begin, int64_t end) {
            expand_row(chosen + begin, end - begin, shape.wide, out + begin * shape.wide);
        });
    }
    const int64_t row = shape.across * shape.wide;
    const int64_t grain = entries_per_thread / (shape.high * row);
    parallel_ranges(threads, shape.down, grain, [&](int64_t begin, int64_t end) {
        for (int64_t d = begin; d < end; ++d) {
            uint8_t* first = out + d * shape.high * row;
            expand_row(chosen + d * shape.across, shape.across, shape.wide, first);
            for (int64_t h = 1; h < shape.high; ++h) std::memcpy(first + h * row, first, row);
        }
    });
}

}  // namespace sparsewright
