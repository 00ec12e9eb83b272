// Packing and unpacking of activation tiles of any type.
#pragma once

#include <algorithm>

#include "common/parallel.h"
#include "csr/product_table.h"
#include "csr/products.h"

namespace sparsewright {

// Returns the narrowest tile that holds the tokens; fewer lanes mean less work in the last tile.
inline int fit_lanes(const ProductLoops& loops, int64_t tokens, int full) {
    int lanes = loops.width;
    while (lanes < tokens && lanes < full) lanes *= 2;
    return lanes;
}

// A tile of `tokens` tokens that starts at `token`.
struct Tile {
    int64_t token;
    int tokens, lanes;
};

inline Tile tile_at(const ProductLoops& loops, int64_t token, int64_t end, int full) {
    int tokens = int(std::min<int64_t>(full, end - token));
    return {token, tokens, fit_lanes(loops, tokens, full)};
}

inline void pack(const ProductLoops& loops, const Activations& x, const Tile& tile, int64_t begin,
                 int64_t end, float* out) {
    int64_t at = tile.token * x.features + begin;
    if (x.bf16)
        loops.pack_bf16(static_cast<const uint16_t*>(x.data) + at, x.features, tile.tokens,
                        end - begin, tile.lanes, out + begin * tile.lanes);
    else
        loops.pack_f32(static_cast<const float*>(x.data) + at, x.features, tile.tokens, end - begin,
                       tile.lanes, out + begin * tile.lanes);
}

inline void unpack(const ProductLoops& loops, const float* in, const Tile& tile, int64_t begin,
                   int64_t end, const Activations& y) {
    int64_t at = tile.token * y.features + begin;
    if (y.bf16)
        loops.unpack_bf16(in, tile.lanes, tile.tokens, end - begin,
                          static_cast<uint16_t*>(y.data) + at, y.features);
    else
        loops.unpack_f32(in, tile.lanes, tile.tokens, end - begin, static_cast<float*>(y.data) + at,
                         y.features);
}

// Packs all tiles of tokens [token, end), each to its own full * features floats. It reads whole
// rows (slices of 256 features were 1.7x slower), and cuts slices only to give every thread work.
inline void pack_all(const ProductLoops& loops, const Activations& x, int64_t token, int64_t end,
                     int full, float* out, int threads) {
    int64_t tiles = (end - token + full - 1) / full;
    int64_t slices =
        std::max<int64_t>(1, std::min((threads * 2 + tiles - 1) / tiles, x.features / 256));
    if (threads == 1) slices = 1;
    int64_t step = (x.features + slices - 1) / slices;
    parallel_for(threads, tiles * slices, [&](int64_t i, int) {
        int64_t t = i / slices, first = i % slices * step;
        pack(loops, x, tile_at(loops, token + t * full, end, full), std::min(first, x.features),
             std::min(first + step, x.features), out + t * full * x.features);
    });
}

}  // namespace sparsewright
