#include "masks/counts.h"

#include <atomic>

#include "common/parallel.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

constexpr int64_t entries_per_thread = 1 << 20;

}  // namespace

void count_rows(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts, int threads,
                Isa isa) {
    const int64_t grain = entries_per_thread / std::max<int64_t>(n, 1);
    parallel_ranges(threads, rows, grain, [&](int64_t begin, int64_t end) {
        mask_loops(isa).count_rows(mask + begin * n, end - begin, n, counts + begin);
    });
}

Changes count_changes(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n, int threads,
                      Isa isa) {
    std::atomic<int64_t> dropped{0}, grown{0};
    parallel_ranges(threads, n, entries_per_thread, [&](int64_t begin, int64_t end) {
        int64_t lost, won;
        mask_loops(isa).count_changes(old_mask + begin, new_mask + begin, end - begin, &lost, &won);
        dropped += lost;
        grown += won;
    });
    return {dropped, grown};
}

}  // namespace sparsewright
