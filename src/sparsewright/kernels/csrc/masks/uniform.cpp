#include "masks/uniform.h"

#include "common/parallel.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

// A thread gets at least this much work, because less is never worth starting it.
constexpr int64_t entries_per_thread = 1 << 18;

}  // namespace

void uniform(float* out, int64_t n, uint64_t key, uint64_t first, int threads, Isa isa) {
    parallel_ranges(threads, n, entries_per_thread, [&](int64_t begin, int64_t end) {
        mask_loops(isa).uniform(out + begin, end - begin, key,
                                first + static_cast<uint64_t>(begin));
    });
}

}  // namespace sparsewright
