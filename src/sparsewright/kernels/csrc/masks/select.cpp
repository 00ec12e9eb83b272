#include "masks/select.h"

#include <atomic>
#include <stdexcept>

#include "common/parallel.h"
#include "masks/loops.h"
#include "masks/threshold.h"

namespace sparsewright {
namespace {

// Starting a thread costs as much as scanning this many entries.
constexpr int64_t entries_per_thread = 1 << 16;

// Writes the row's mask. Ties are resolved by lowest index, for any number of parts.
template <class T>
void mark_row(const Row<T>& row, const Threshold<T>& threshold, uint8_t* out) {
    std::vector<int64_t> ties(row.parts, threshold.ties);
    const bool share = row.parts > 1 && threshold.ties < threshold.equal;
    auto among = [&](int64_t i) { return row.among ? row.among + i : nullptr; };
    if (share) {
        std::vector<int64_t> equal(row.parts);
        row.for_each_part([&](int64_t part) {
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
    row.for_each_part([&](int64_t part) {
        const int64_t i = row.begin(part);
        row.loops->mark(row.score + i, among(i), row.begin(part + 1) - i, threshold.key, ties[part],
                        out + i);
    });
}

template <class T>
int64_t count_candidates(const Row<T>& row, Isa isa) {
    if (!row.among) return row.n;
    std::vector<int64_t> counts(row.parts);
    row.for_each_part([&](int64_t part) {
        const int64_t i = row.begin(part);
        mask_loops(isa).count_rows(row.among + i, 1, row.begin(part + 1) - i, &counts[part]);
    });
    int64_t total = 0;
    for (int64_t n : counts) total += n;
    return total;
}

// Returns false if a candidate is NaN.
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
        if (num > 0) {  // mark all: only NaN has the key min_key, so all are above it
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
        return Row<T>{
            static_cast<const T*>(task.score) + r * task.n,      among, task.n, inf, task.magnitude,
            &mask_loops(isa).template select<T>(task.magnitude), parts};
    };
    // Several threads share a long row; each thread gets whole shorter rows.
    const int64_t shares = task.n / (4 * entries_per_thread);
    const int within = int(std::clamp<int64_t>(shares, 1, threads));
    std::atomic<int64_t> first_nan{task.rows};
    const auto note_nan = [&](int64_t row) {
        for (int64_t seen = first_nan; row < seen && !first_nan.compare_exchange_weak(seen, row);) {
        }
    };
    const int64_t grain = entries_per_thread / task.n;
    parallel_ranges(within > 1 ? 1 : threads, task.rows, grain, [&](int64_t begin, int64_t end) {
        if (task.n <= short_row) {
            const Row<T> row = row_of(begin, 1);
            const int64_t bad = row.loops->short_rows(
                row.score, row.among, end - begin, task.n, task.num + begin * task.num_step,
                task.num_step, inf, task.out + begin * task.n);
            if (bad >= 0) note_nan(begin + bad);
            return;
        }
        std::vector<T> keys;
        for (int64_t r = begin; r < end; ++r) {
            if (!select_row(row_of(r, within), task.num[r * task.num_step], task.out + r * task.n,
                            keys, isa))
                return note_nan(r);
        }
    });
    return first_nan < task.rows ? first_nan.load() : -1;
}

}  // namespace

int64_t select(const SelectTask& task, int threads, Isa isa) {
    if (task.rows == 0 || task.n == 0) return -1;
    switch (task.dtype) {
        case Dtype::float16:
            return select_rows<int16_t>(task, 0x7c00, threads, isa);
        case Dtype::bfloat16:
            return select_rows<int16_t>(task, 0x7f80, threads, isa);
        case Dtype::float32:
            return select_rows<int32_t>(task, 0x7f800000, threads, isa);
        case Dtype::float64:
            return select_rows<int64_t>(task, 0x7ff0000000000000, threads, isa);
        default:
            throw std::invalid_argument("score is not floating point");
    }
}

}  // namespace sparsewright
