#include "masks/prune.h"

#include "common/parallel.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

// A thread gets at least this much work, because less is never worth starting it.
constexpr int64_t bytes_per_thread = 1 << 20;

// Returns the part of `item` in the bytes [begin, end) of all items together.
void prune_span(const PruneItem& item, int64_t begin, int64_t end, const MaskLoops& loops) {
    begin = std::max<int64_t>(begin, 0);
    end = std::min(end, item.bytes());
    if (begin >= end) return;
    const int64_t first = (begin + item.itemsize - 1) / item.itemsize;
    const int64_t last = (end + item.itemsize - 1) / item.itemsize;
    loops.prune(item.itemsize)(item.data + first * item.itemsize, item.mask + first, last - first);
}

}  // namespace

void prune_many(const std::vector<PruneItem>& items, int threads, Isa isa) {
    const MaskLoops& loops = mask_loops(isa);
    int64_t total = 0;
    for (const auto& item : items) total += item.bytes();
    parallel_ranges(threads, total, bytes_per_thread, [&](int64_t begin, int64_t end) {
        for (const auto& item : items) {
            prune_span(item, begin, end, loops);
            begin -= item.bytes();
            end -= item.bytes();
        }
    });
}

}  // namespace sparsewright
