#include "select.h"

#include <atomic>

#include "parallel.h"
#include "threshold.h"

namespace sw {
namespace {

constexpr int64_t min_items_per_thread = 1 << 16;  // a thread costs as much as scanning these

// Writes the row's mask; `ties` go to the lowest indices, whatever the number of parts.
template <class T>
void mark_row(const Row<T>& row, const Threshold<T>& threshold, uint8_t* out) {
    std::vector<int64_t> ties(row.parts, threshold.ties);
    const bool share = row.parts > 1 && threshold.ties < threshold.equal;
    auto among = [&](int64_t i) { return row.among ? row.among + i : nullptr; };
    if (share) {
        std::vector<int64_t> equal(row.parts);
        parallel_for(row.parts, [&](int part) {
            const int64_t i = row.begin(part);
            equal[part] = row.loops
                              ->scan(row.score + i, among(i), row.begin(part + 1) - i,
                                     threshold.key, threshold.key, row.inf, nullptr)
                              .inside;
        });
        int64_t left = threshold.ties;
        for (int part = 0; part < row.parts; ++part) {
            ties[part] = left;
            left -= std::min(left, equal[part]);
        }
    }
    parallel_for(row.parts, [&](int part) {
        const int64_t i = row.begin(part);
        row.loops->mark(row.score + i, among(i), row.begin(part + 1) - i, threshold.key,
                        ties[part], out + i);
    });
}

template <class T>
int64_t count_candidates(const Row<T>& row, Isa isa) {
    if (!row.among) return row.n;
    std::vector<int64_t> counts(row.parts);
    parallel_for(row.parts, [&](int part) {
        const int64_t i = row.begin(part);
        counts[part] = loops_for(isa).mask.count(row.among + i, row.begin(part + 1) - i);
    });
    int64_t total = 0;
    for (int64_t n : counts) total += n;
    return total;
}

// False where a candidate is NaN.
template <class T>
bool select_row(const Row<T>& row, int64_t num, uint8_t* out, std::vector<T>& keys, Isa isa) {
    const int64_t candidates = count_candidates(row, isa);
    Threshold<T> threshold;
    if (num > 0 && num < candidates) {
        threshold = find_threshold(row, candidates, num, keys);
    } else {
        bool complete;
        const Bracket<T> none{max_key<T>, max_key<T>, false, false};
        threshold.has_nan = scan_row(row, none, 0, keys, complete).has_nan;
        if (num > 0) {  // all of them: no key but NaN's is min_key, so every one is above
            threshold.key = min_key<T>;
        }
    }
    if (threshold.has_nan) return false;
    mark_row(row, threshold, out);
    return true;
}

template <class T>
int64_t select_rows(const SelectTask& task, T inf, int threads, Isa isa) {
    auto row_of = [&](int64_t r, int parts) {
        const uint8_t* among = task.among ? task.among + r * task.n : nullptr;
        return Row<T>{static_cast<const T*>(task.score) + r * task.n, among, task.n, inf,
                      task.magnitude, &loops_for(isa).template select<T>(task.magnitude), parts};
    };
    // Threads share long rows, and otherwise take rows each.
    const int within = choose_parts(task.n, threads, 4 * min_items_per_thread);
    const int across = within > 1 ? 1
                                  : int(std::min<int64_t>(
                                        std::max<int64_t>(task.rows, 1),
                                        choose_parts(task.rows * task.n, threads,
                                                     min_items_per_thread)));
    std::vector<int64_t> first_nan(across, -1);
    parallel_for(across, [&](int part) {
        std::vector<T> keys;
        const int64_t begin = split(task.rows, part, across, 1);
        const int64_t end = split(task.rows, part + 1, across, 1);
        if (task.n <= short_row) {
            const Row<T> row = row_of(begin, 1);
            const int64_t bad =
                row.loops->short_rows(row.score, row.among, end - begin, task.n, task.num + begin,
                                      inf, task.out + begin * task.n);
            if (bad >= 0) first_nan[part] = begin + bad;
            return;
        }
        for (int64_t r = begin; r < end; ++r) {
            if (!select_row(row_of(r, within), task.num[r], task.out + r * task.n, keys, isa)) {
                first_nan[part] = r;
                return;
            }
        }
    });
    for (int64_t r : first_nan)
        if (r >= 0) return r;
    return -1;
}

}  // namespace

int64_t select(const SelectTask& task, int threads, Isa isa) {
    if (task.rows == 0 || task.n == 0) return -1;
    switch (task.format) {
        case Format::float16: return select_rows<int16_t>(task, 0x7c00, threads, isa);
        case Format::bfloat16: return select_rows<int16_t>(task, 0x7f80, threads, isa);
        case Format::float32: return select_rows<int32_t>(task, 0x7f800000, threads, isa);
        case Format::float64: return select_rows<int64_t>(task, 0x7ff0000000000000, threads, isa);
    }
    throw std::invalid_argument("unknown score format");
}

void count_rows(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts, int threads,
                Isa isa) {
    const auto count = loops_for(isa).mask.count;
    const int parts = int(std::min<int64_t>(
        std::max<int64_t>(rows, 1), choose_parts(rows * n, threads, 16 * min_items_per_thread)));
    parallel_for(parts, [&](int part) {
        const int64_t end = split(rows, part + 1, parts, 1);
        for (int64_t r = split(rows, part, parts, 1); r < end; ++r)
            counts[r] = count(mask + r * n, n);
    });
}

Changes count_changes(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n, int threads,
                      Isa isa) {
    const int parts = choose_parts(n, threads, 16 * min_items_per_thread);
    std::vector<Changes> found(parts);
    parallel_for(parts, [&](int part) {
        const int64_t i = split(n, part, parts, 4096);
        loops_for(isa).mask.count_changes(old_mask + i, new_mask + i,
                                          split(n, part + 1, parts, 4096) - i,
                                          &found[part].dropped, &found[part].grown);
    });
    Changes total{0, 0};
    for (const Changes& each : found) {
        total.dropped += each.dropped;
        total.grown += each.grown;
    }
    return total;
}

}  // namespace sw
