// The two passes over a long row: count the keys above and inside a bracket, and mark entries.
#pragma once

#include "masks/blocks.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

template <class T, bool Magnitude>
Scan<T> scan(const T* score, const uint8_t* among, int64_t n, T lo, T hi, T inf, T* gathered) {
    Scan<T> result;
    uint64_t nan = 0;
    T buffer[block];
    for (int64_t i = 0; i < n; i += block) {
        const uint64_t live = candidates(among, i, n - i);
        const T* p = padded(score + i, n - i, buffer);
        typename Block::template Keys<T, Magnitude> keys;
        keys.load(p);
        nan |= keys.larger(inf) & live;
        const uint64_t above = keys.above(hi);
        uint64_t inside = keys.above(static_cast<T>(lo - 1)) & ~above & live;
        result.above += __builtin_popcountll(above & live);
        if (gathered) {
            T* out = gathered + result.inside;
            for (uint64_t b = inside; b; b &= b - 1)
                *out++ = key_of<Magnitude>(p[__builtin_ctzll(b)]);
        }
        result.inside += __builtin_popcountll(inside);
    }
    result.has_nan = nan != 0;
    return result;
}

template <class T, bool Magnitude>
void mark(const T* score, const uint8_t* among, int64_t n, T threshold, int64_t ties,
          uint8_t* out) {
    T buffer[block];
    for (int64_t i = 0; i < n; i += block) {
        const uint64_t live = candidates(among, i, n - i);
        typename Block::template Keys<T, Magnitude> keys;
        keys.load(padded(score + i, n - i, buffer));
        uint64_t chosen = keys.above(threshold);
        uint64_t equal = keys.above(static_cast<T>(threshold - 1)) & ~chosen & live;
        if (equal) {
            const int64_t count = __builtin_popcountll(equal);
            if (count > ties) equal = Block::lowest(equal, ties);
            ties -= count < ties ? count : ties;
            chosen |= equal;
        }
        store(chosen & live, n - i, out + i);
    }
}

}  // namespace
}  // namespace sparsewright
