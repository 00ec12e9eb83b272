#include "uniform.h"

#include "parallel.h"
#include "uniform_loop.h"

namespace sw {

const UniformFn uniform_portable = uniform_loop;

namespace {

// A floor under the caller's choice: below it a thread is never worth its start.
constexpr int64_t min_items_per_thread = 1 << 18;

UniformFn pick(Isa isa) {
#if SW_X86
    if (isa == Isa::avx512) return uniform_avx512;
#endif
    (void)isa;
    return uniform_portable;
}

}  // namespace

void uniform(float* out, int64_t n, uint64_t key, uint64_t first, int threads, Isa isa) {
    const int parts = choose_parts(n, threads, min_items_per_thread);
    parallel_for(parts, [&](int part) {
        const int64_t begin = split(n, part, parts, 16);
        const int64_t end = split(n, part + 1, parts, 16);
        pick(isa)(out + begin, end - begin, key, first + static_cast<uint64_t>(begin));
    });
}

}  // namespace sw
