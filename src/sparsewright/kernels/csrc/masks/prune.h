// prune_ sets tensor = where(mask, tensor, +0) by bit operations, for elements of 2, 4 or 8 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "common/isa.h"

namespace sparsewright {

struct PruneItem {
    char* data;
    const uint8_t* mask;  // one byte per element; zero means pruned
    int64_t numel;
    int itemsize;  // 2, 4 or 8

    int64_t bytes() const { return numel * itemsize; }
};

// Prunes all items in one parallel region, split by bytes.
void prune_many(const std::vector<PruneItem>& items, int threads, Isa isa);

}  // namespace sparsewright
