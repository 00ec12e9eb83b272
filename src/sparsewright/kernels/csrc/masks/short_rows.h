// The select loops for rows that fit the first-level cache.
#pragma once

#include "masks/blocks.h"
#include "masks/loops.h"
#include "masks/tiny_rows.h"

namespace sparsewright {
namespace {

// Quickselect of one short row on sets of positions. Entries do not move: a pivot splits the `open`
// positions of every block into above, equal and below.
template <class T, bool Magnitude, int most>
struct ShortRow {
    using Keys = typename Block::template Keys<T, Magnitude>;

    struct Count {  // constant for rows of one block, which is 1.5x faster on rows of 8
        int n;
        operator int() const { return most == 1 ? 1 : n; }
    };

    const T* score;
    const T* tail;  // the last block, possibly a padded copy
    Count blocks;
    uint64_t open[most], above[most], equal[most], chosen[most];
    uint32_t random = 1;

    const T* at(int b) const { return b == blocks - 1 ? tail : score + b * block; }

    // Any open position is a valid pivot. A random block avoids the worst case for sorted rows.
    T random_key() {
        random = random * 1664525u + 1013904223u;
        int b = static_cast<int>(uint64_t{random} * blocks >> 32);
        while (!open[b]) b = b + 1 < blocks ? b + 1 : 0;
        return key_of<Magnitude>(at(b)[__builtin_ctzll(open[b])]);
    }

    // Returns a pivot close to the num-th largest of `left` open keys: in long rows, one of three.
    T pivot(int64_t num, int64_t left) {
        if (most == 1 || left < 192) return random_key();
        const T a = random_key(), b = random_key(), c = random_key();
        const T low = a < b ? a : b, high = a < b ? b : a;
        if (3 * num < left) return high > c ? high : c;
        if (3 * num > 2 * left) return low < c ? low : c;
        const T rest = high < c ? high : c;
        return low > rest ? low : rest;
    }

    void split(T key, int64_t& num_above, int64_t& num_equal) {
        num_above = num_equal = 0;
        for (int b = 0; b < blocks; ++b) {
            above[b] = equal[b] = 0;
            if (!open[b]) continue;
            Keys keys;
            keys.load(at(b));
            above[b] = keys.above(key) & open[b];
            equal[b] = keys.above(static_cast<T>(key - 1)) & open[b] & ~above[b];
            num_above += __builtin_popcountll(above[b]);
            num_equal += __builtin_popcountll(equal[b]);
        }
    }

    // Chooses `num` of `left` open keys; num < left.
    void choose(int64_t num, int64_t left) {
        while (num > 0) {
            int64_t num_above, num_equal;
            split(pivot(num, left), num_above, num_equal);
            if (num < num_above) {
                left = num_above;
                for (int b = 0; b < blocks; ++b) open[b] = above[b];
                continue;
            }
            num -= num_above;
            left -= num_above + num_equal;
            for (int b = 0; b < blocks; ++b) {
                const int64_t ties = __builtin_popcountll(equal[b]);
                chosen[b] |= above[b] | (ties > num ? Block::lowest(equal[b], num) : equal[b]);
                num -= ties < num ? ties : num;
                open[b] &= ~(above[b] | equal[b]);
            }
        }
    }

    // The next `left` positions may be read and written, because later rows are written afterwards.
    bool run(const uint8_t* among, int64_t n, int64_t left, int64_t num, T inf, uint8_t* out) {
        T buffer[block];
        blocks.n = static_cast<int>((n + block - 1) / block);
        const int64_t last = (blocks - 1) * block;
        tail = padded(score + last, left - last, buffer);
        int64_t live = 0;
        uint64_t nan = 0;
        for (int b = 0; b < blocks; ++b) {
            open[b] = candidates(among, b * block, left - b * block) & first_bits(n - b * block);
            Keys keys;
            keys.load(at(b));
            nan |= keys.larger(inf) & open[b];
            live += __builtin_popcountll(open[b]);
            chosen[b] = 0;
        }
        if (nan) return false;
        const bool all = num >= live;
        if (!all) choose(num, live);
        for (int b = 0; b < blocks; ++b)
            store(all ? open[b] : chosen[b], left - b * block, out + b * block);
        return true;
    }
};

template <class T, bool Magnitude, int most>
int64_t rows_of_blocks(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                       const int64_t* num, int64_t num_step, T inf, uint8_t* out) {
    ShortRow<T, Magnitude, most> row;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t i = r * n;
        row.score = score + i;
        if (!row.run(among ? among + i : nullptr, n, (rows - r) * n, num[r * num_step], inf,
                     out + i))
            return r;
    }
    return -1;
}

template <class T, bool Magnitude>
int64_t short_rows(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                   const int64_t* num, int64_t num_step, T inf, uint8_t* out) {
    if (n <= tiny_row)
        return TinyRows<T, Magnitude>(n).run(score, among, rows, num, num_step, inf, out);
    const auto run = n <= block ? rows_of_blocks<T, Magnitude, 1>
                                : rows_of_blocks<T, Magnitude, short_row / block>;
    return run(score, among, rows, n, num, num_step, inf, out);
}

}  // namespace
}  // namespace sparsewright
