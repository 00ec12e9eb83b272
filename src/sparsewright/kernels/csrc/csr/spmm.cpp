#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "csr/buffer.h"
#include "csr/products.h"
#include "csr/tile.h"

namespace sparsewright {
namespace {

struct Spmm {
    const ProductLoops& loops;
    const BlockedIndex& index;
    const float* values;
    const Activations& x;
    const float* bias;
    const Activations& y;
    int full;

    int64_t tiles() const { return (x.tokens + full - 1) / full; }
    Tile tile(int64_t i) const { return tile_at(loops, i * full, x.tokens, full); }

    // For one row block of one tile, accumulates all cells, then writes the finished outputs.
    void multiply(const Tile& tile, const float* packed, int64_t rb, float* acc) const {
        int64_t first = rb * index.row_block, height = index.block_rows(rb);
        const float* block_bias = bias ? bias + first : nullptr;
        for (int64_t cb = 0; cb < index.col_blocks(); ++cb)
            loops.spmm_cell(index.cell(rb, cb), values, packed + cb * index.col_block * tile.lanes,
                            tile.lanes, cb == 0, block_bias, acc);
        if (index.col_blocks() == 0) {
            std::vector<int32_t> empty(height + 1);
            loops.spmm_cell({height, empty.data(), nullptr}, values, packed, tile.lanes, true,
                            block_bias, acc);
        }
        unpack(loops, acc, tile, first, first + height, y);
    }
};

}  // namespace

void spmm(const ProductLoops& loops, const BlockedIndex& index, const float* values,
          const Activations& x, const float* bias, const Activations& y, int threads) {
    Spmm op{loops, index, values, x, bias, y, loops.spmm_lanes};
    int64_t tiles = op.tiles(), tile_size = index.cols * op.full, row_blocks = index.row_blocks();
    if (!tiles || !index.rows) return;
    threads = std::max(1, threads);
    Buffer acc = make_buffer(threads * index.row_block * op.full);
    auto acc_of = [&](int thread) { return acc.get() + thread * index.row_block * op.full; };

    if (threads == 1 ||
        tiles >= 4 * threads) {  // one tile per task keeps its packed activations in cache
        Buffer packed = make_buffer(threads * tile_size);
        parallel_for(threads, tiles, [&](int64_t i, int thread) {
            Tile tile = op.tile(i);
            float* mine = packed.get() + thread * tile_size;
            pack(loops, x, tile, 0, index.cols, mine);
            for (int64_t rb = 0; rb < row_blocks; ++rb) op.multiply(tile, mine, rb, acc_of(thread));
        });
        return;
    }
    Buffer packed = make_buffer(tiles * tile_size);
    pack_all(loops, x, 0, x.tokens, op.full, packed.get(), threads);
    parallel_for(threads, tiles * row_blocks, [&](int64_t i, int thread) {
        int64_t t = i / row_blocks;
        op.multiply(op.tile(t), packed.get() + t * tile_size, i % row_blocks, acc_of(thread));
    });
}

}  // namespace sparsewright
