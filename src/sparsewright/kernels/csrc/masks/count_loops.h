// Loops that count entries of masks.
#pragma once

#include "masks/blocks.h"

namespace sparsewright {
namespace {

inline int64_t count(const uint8_t* mask, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; i += block)
        total += __builtin_popcountll(candidates(mask, i, n - i));
    return total;
}

// Counts the nonzero bytes among the first n of eight.
inline int64_t count_eight(const uint8_t* mask, int64_t n) {
    uint64_t word;
    std::memcpy(&word, mask, 8);
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu;
    const uint64_t nonzero = (((word & low) + low) | word) >> 7 & 0x0101010101010101u;
    return static_cast<int64_t>((nonzero << (64 - 8 * n)) * 0x0101010101010101u >> 56);
}

// Reads past the end of short rows, into the rows that follow.
inline void count_rows(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts) {
    for (int64_t r = 0; r < rows; ++r, mask += n) {
        const int64_t left = (rows - r) * n;
        if (n <= 8 && left >= 8 && n > 0)
            counts[r] = count_eight(mask, n);
        else if (n <= block && left >= block)
            counts[r] = __builtin_popcountll(Block::bits_of_bytes(mask) & first_bits(n));
        else
            counts[r] = count(mask, n);
    }
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

}  // namespace
}  // namespace sparsewright
