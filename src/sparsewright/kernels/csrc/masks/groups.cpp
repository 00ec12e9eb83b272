#include "masks/groups.h"

#include <atomic>
#include <stdexcept>
#include <vector>

#include "common/parallel.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

constexpr int64_t entries_per_thread = 1 << 16;

// Calls loop(begin, end) for ranges of groups. Returns false if one of the calls does.
template <class F>
bool for_all_groups(const GroupTask& task, int threads, const F& loop) {
    std::atomic<bool> valid{true};
    parallel_ranges(threads, task.count, entries_per_thread / task.m, [&](int64_t a, int64_t b) {
        if (!loop(a, b)) valid = false;
    });
    return valid;
}

// Returns the comparators of a sorting network of m places that matter for the n-th largest entry.
// Source: Batcher's merge exchange (Knuth, "The Art of Computer Programming" 3, algorithm 5.2.2M).
std::vector<Comparator> make_network(int m, int n) {
    std::vector<Comparator> all;
    int top = 1;
    while (2 * top < m) top *= 2;
    for (int p = top; p > 0; p /= 2) {
        int distance = p, rest = 0;
        for (int q = top;; q /= 2) {
            for (int i = 0; i + distance < m; ++i)
                if ((i & p) == rest) all.push_back({i, i + distance});
            if (q == p) break;
            distance = q - p;
            rest = p;
        }
    }
    std::vector<bool> matters(m);
    matters[n - 1] = true;
    std::vector<Comparator> used;
    for (auto each = all.rbegin(); each != all.rend(); ++each) {
        if (!matters[each->high] && !matters[each->low]) continue;
        matters[each->high] = matters[each->low] = true;
        used.push_back(*each);
    }
    return {used.rbegin(), used.rend()};
}

}  // namespace

bool select_n_m(const GroupTask& task, int threads, Isa isa) {
    const std::vector<Comparator> network = make_network(task.m, task.n);
    GroupTask with_network = task;
    with_network.network = network.data();
    with_network.comparators = static_cast<int>(network.size());
    const auto run = [&](NMLoop loop, int64_t inf) {
        return for_all_groups(task, threads, [&](int64_t begin, int64_t end) {
            return loop(with_network, begin, end, inf);
        });
    };
    const MaskLoops& loops = mask_loops(isa);
    switch (task.dtype) {
        case Dtype::float16:
            return run(loops.n_m16, 0x7c00);
        case Dtype::bfloat16:
            return run(loops.n_m16, 0x7f80);
        case Dtype::float32:
            return run(loops.n_m32, 0x7f800000);
        case Dtype::float64:
            return run(loops.n_m64, 0x7ff0000000000000);
        default:
            throw std::invalid_argument("score is not floating point");
    }
}

bool select_tiles(const GroupTask& task, int threads, Isa isa) {
    const auto run = [&](TileLoop loop) {
        return for_all_groups(task, threads,
                              [&](int64_t begin, int64_t end) { return loop(task, begin, end); });
    };
    const MaskLoops& loops = mask_loops(isa);
    switch (task.dtype) {
        case Dtype::float16:
            return run(loops.tiles_half);
        case Dtype::bfloat16:
            return run(loops.tiles_bfloat);
        case Dtype::float32:
            return run(loops.tiles_float);
        case Dtype::float64:
            return run(loops.tiles_double);
        default:
            throw std::invalid_argument("score is not floating point");
    }
}

}  // namespace sparsewright
