// The loops of select.h, written once over blocks of 64 positions held as 64-bit sets.
// Each instruction set includes this file with its own `Block` (in an anonymous namespace, so that
// the linker never mixes them). A Block provides
//   bits_of_bytes(const uint8_t* p)  -> set of nonzero bytes among 64
//   bytes_of_bits(uint64_t b, uint8_t* p)  writes 64 bytes, 0 or 1
//   lowest(uint64_t b, int64_t count) -> the lowest `count` set bits of b
//   struct Keys<T, Magnitude>: load(const T* p); above(T bound) -> set of key > bound;
//                              larger(T size) -> set of |key| > size
#pragma once

#include <cstring>

#include "select.h"

namespace {

constexpr int block = 64;

// Copies a short tail into a full block of zeros, so that every block is whole.
template <class T>
const T* padded(const T* p, int64_t n, T* buffer) {
    if (n >= block) return p;
    std::memset(buffer, 0, block * sizeof(T));
    std::memcpy(buffer, p, n * sizeof(T));
    return buffer;
}

inline uint64_t first_bits(int64_t n) { return n >= block ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// Writes the first n of 64 flags.
inline void store(uint64_t bits, int64_t n, uint8_t* out) {
    if (n >= block) return Block::bytes_of_bits(bits, out);
    uint8_t tail[block];
    Block::bytes_of_bits(bits, tail);
    std::memcpy(out, tail, n);
}

inline uint64_t candidates(const uint8_t* among, int64_t i, int64_t left) {
    if (!among) return first_bits(left);
    uint8_t buffer[block];
    return Block::bits_of_bytes(padded(among + i, left, buffer));
}

template <class T, bool Magnitude>
sw::Scan<T> scan(const T* score, const uint8_t* among, int64_t n, T lo, T hi, T inf, T* gathered) {
    sw::Scan<T> result;
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
                *out++ = sw::key_of<Magnitude>(p[__builtin_ctzll(b)]);
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

// Quickselect of one short row on sets of positions: no entry moves, a pivot splits the `open`
// positions of every block into above, equal and below.
template <class T, bool Magnitude, int most>
struct ShortRow {
    using Keys = typename Block::template Keys<T, Magnitude>;

    struct Count {  // a constant where the row is one block: 1.5x faster on rows of 8
        int n;
        operator int() const { return most == 1 ? 1 : n; }
    };

    const T* score;
    const T* tail;  // the last block, which may be a padded copy
    Count blocks;
    uint64_t open[most], above[most], equal[most], chosen[most];
    uint32_t random = 1;

    const T* at(int b) const { return b == blocks - 1 ? tail : score + b * block; }

    // Any open position would do; a random block keeps sorted rows from being the worst case.
    T pivot() {
        random = random * 1664525u + 1013904223u;
        int b = static_cast<int>(uint64_t{random} * blocks >> 32);
        while (!open[b]) b = b + 1 < blocks ? b + 1 : 0;
        return sw::key_of<Magnitude>(at(b)[__builtin_ctzll(open[b])]);
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

    void choose(int64_t num) {
        while (num > 0) {
            int64_t num_above, num_equal;
            split(pivot(), num_above, num_equal);
            if (num < num_above) {
                for (int b = 0; b < blocks; ++b) open[b] = above[b];
                continue;
            }
            num -= num_above;
            for (int b = 0; b < blocks; ++b) {
                const int64_t ties = __builtin_popcountll(equal[b]);
                chosen[b] |= above[b] | (ties > num ? Block::lowest(equal[b], num) : equal[b]);
                num -= ties < num ? ties : num;
                open[b] &= ~(above[b] | equal[b]);
            }
        }
    }

    // `left` positions may be read and written from here on: later rows are written after.
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
        if (!all) choose(num);
        for (int b = 0; b < blocks; ++b)
            store(all ? open[b] : chosen[b], left - b * block, out + b * block);
        return true;
    }
};

template <class T, bool Magnitude, int most>
int64_t rows_of_blocks(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                       const int64_t* num, T inf, uint8_t* out) {
    ShortRow<T, Magnitude, most> row;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t i = r * n;
        row.score = score + i;
        if (!row.run(among ? among + i : nullptr, n, (rows - r) * n, num[r], inf, out + i))
            return r;
    }
    return -1;
}

template <class T, bool Magnitude>
int64_t short_rows(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                   const int64_t* num, T inf, uint8_t* out) {
    const auto run = n <= block ? rows_of_blocks<T, Magnitude, 1>
                                : rows_of_blocks<T, Magnitude, sw::short_row / block>;
    return run(score, among, rows, n, num, inf, out);
}

inline int64_t count(const uint8_t* mask, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; i += block)
        total += __builtin_popcountll(candidates(mask, i, n - i));
    return total;
}

inline void count_changes(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n,
                          int64_t* dropped, int64_t* grown) {
    int64_t lost = 0, won = 0;
    for (int64_t i = 0; i < n; i += block) {
        const uint64_t before = candidates(old_mask, i, n - i);
        const uint64_t after = candidates(new_mask, i, n - i);
        lost += __builtin_popcountll(before & ~after);
        won += __builtin_popcountll(after & ~before);
    }
    *dropped = lost;
    *grown = won;
}

template <class T>
constexpr sw::SelectLoops<T> signed_loops = {
    scan<T, false>, mark<T, false>, short_rows<T, false>};
template <class T>
constexpr sw::SelectLoops<T> magnitude_loops = {
    scan<T, true>, mark<T, true>, short_rows<T, true>};

constexpr sw::AllLoops all_loops = {
    {signed_loops<int16_t>, magnitude_loops<int16_t>},
    {signed_loops<int32_t>, magnitude_loops<int32_t>},
    {signed_loops<int64_t>, magnitude_loops<int64_t>},
    {count, count_changes},
};

}  // namespace
