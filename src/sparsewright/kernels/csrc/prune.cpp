#include "prune.h"

#include "parallel.h"
#include "prune_loop.h"

namespace sw {

const PruneFn prune_portable[3] = {prune_loop<uint16_t>, prune_loop<uint32_t>,
                                   prune_loop<uint64_t>};

namespace {

// A floor under the caller's choice: below it a thread is never worth its start.
constexpr int64_t min_bytes_per_thread = 1 << 20;

PruneFn pick(Isa isa, int itemsize) {
    const int size = itemsize == 2 ? 0 : itemsize == 4 ? 1 : 2;
#if SW_X86
    if (isa == Isa::avx512) return prune_avx512[size];
    if (isa == Isa::avx2) return prune_avx2[size];
#endif
    (void)isa;
    return prune_portable[size];
}

int64_t bytes(const PruneItem& item) { return item.numel * item.itemsize; }

// The part of `item` whose bytes fall into [begin, end) of the list laid end to end.
void prune_span(const PruneItem& item, int64_t begin, int64_t end, Isa isa) {
    begin = std::max<int64_t>(begin, 0);
    end = std::min(end, bytes(item));
    if (begin >= end) return;
    const int64_t first = (begin + item.itemsize - 1) / item.itemsize;
    const int64_t last = (end + item.itemsize - 1) / item.itemsize;
    pick(isa, item.itemsize)(static_cast<char*>(item.data) + first * item.itemsize,
                             item.mask + first, last - first);
}

}  // namespace

void prune_many(const std::vector<PruneItem>& items, int threads, Isa isa) {
    int64_t total = 0;
    for (const auto& item : items) total += bytes(item);
    const int parts = choose_parts(total, threads, min_bytes_per_thread);
    parallel_for(parts, [&](int part) {
        const int64_t begin = split(total, part, parts, 64);
        const int64_t end = split(total, part + 1, parts, 64);
        int64_t offset = 0;
        for (const auto& item : items) {
            prune_span(item, begin - offset, end - offset, isa);
            offset += bytes(item);
        }
    });
}

}  // namespace sw
