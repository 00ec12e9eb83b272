// Counts of the entries of masks.
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
