// Counts of the entries that a mask keeps, and of the entries that two masks keep differently.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace sparsewright {

// Sets counts[row] to the number of True entries in the row.
void count_rows(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts, int threads,
                Isa isa);

struct Changes {
    int64_t dropped;  // old & ~new
    int64_t grown;    // new & ~old
};
Changes count_changes(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n, int threads,
                      Isa isa);

}  // namespace sparsewright
