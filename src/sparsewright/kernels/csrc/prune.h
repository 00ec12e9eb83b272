// prune_: tensor = where(mask, tensor, +0) by bit operations, for elements of 2, 4 or 8 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu.h"

namespace sw {

struct PruneItem {
    void* data;
    const uint8_t* mask;  // one byte per element, zero = pruned
    int64_t numel;
    int itemsize;  // 2, 4 or 8
};

// All items in one parallel region, split by bytes.
void prune_many(const std::vector<PruneItem>& items, int threads, Isa isa);

using PruneFn = void (*)(void* data, const uint8_t* mask, int64_t n);

// One function per itemsize (index log2(itemsize) - 1), one table per instruction set.
extern const PruneFn prune_portable[3];
#if SW_X86
extern const PruneFn prune_avx2[3];
extern const PruneFn prune_avx512[3];
#endif

}  // namespace sw
