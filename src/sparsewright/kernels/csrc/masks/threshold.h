// Finds the k-th largest key of one row without sorting, and reads most entries only once.
//
// A sample of about n^(2/3) candidates brackets the k-th key (Floyd and Rivest 1975, "Expected time
// bounds for selection"). One vector pass counts the keys above the bracket and gathers the keys
// inside it, a few percent; nth_element then finds the key. If many entries share an end of the
// bracket (the zeros of a pruned weight), that end is left out and counted separately. If the
// bracket misses (about 1 in 400 rows) or ties fill it, a radix histogram of the keys, 11 bits per
// pass, decides instead. Sampling affects only the speed: the result is exact.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "common/parallel.h"
#include "masks/loops.h"

namespace sparsewright {

template <class T>
struct Row {
    const T* score;
    const uint8_t* among;  // or null
    int64_t n;
    T inf;
    bool magnitude;
    const SelectLoops<T>* loops;
    int parts;  // threads that share this row

    int64_t begin(int64_t part) const {
        constexpr int64_t grain = 4096;
        return std::min(n, (n + grain - 1) / grain * part / parts * grain);
    }
    template <class F>
    void for_each_part(const F& f) const {
        parallel_for(parts, parts, [&](int64_t part, int) { f(part); });
    }
    bool is_candidate(int64_t i) const { return !among || among[i]; }
    T key(int64_t i) const { return magnitude ? key_of<true>(score[i]) : key_of<false>(score[i]); }
};

template <class T>
struct Threshold {
    T key = max_key<T>;
    int64_t ties = 0;   // number of entries equal to `key` to mark
    int64_t equal = 0;  // number of entries equal to `key`
    bool has_nan = false;
};

template <class T>
struct Bracket {
    T lo = min_key<T>, hi = max_key<T>;
    bool lo_shared = false, hi_shared = false;  // many entries equal this end

    bool is_point() const { return lo == hi; }
    Bracket without_shared_ends() const {
        if (is_point()) return *this;
        return {static_cast<T>(lo + lo_shared), static_cast<T>(hi - hi_shared), false, false};
    }
};

// Returns a bracket of the key that a fraction p of all keys exceed, from a sample of the keys.
template <class T>
Bracket<T> bracket_of(std::vector<T>& keys, double p) {
    const int64_t m = int64_t(keys.size());
    const double rank = p * double(m);
    const double margin = 3 * std::sqrt(double(m) * p * (1 - p)) + 1;  // three deviations
    const int64_t upper = int64_t(std::floor(rank - margin));
    const int64_t lower = int64_t(std::ceil(rank + margin));
    Bracket<T> bracket;
    auto first = keys.begin();
    if (upper >= 0 && upper < m) {
        std::nth_element(first, first + upper, keys.end(), std::greater<T>());
        bracket.hi = keys[upper];
        first += upper;
    }
    if (lower >= 0 && lower < m) {
        std::nth_element(first, keys.begin() + lower, keys.end(), std::greater<T>());
        bracket.lo = keys[lower];
    }
    const int64_t many = std::max<int64_t>(4, m / 32);
    bracket.lo_shared = std::count(keys.begin(), keys.end(), bracket.lo) > many;
    bracket.hi_shared = std::count(keys.begin(), keys.end(), bracket.hi) > many;
    return bracket;
}

// Samples one position per stratum, jittered so that no period in the row escapes the sample.
template <class T>
Bracket<T> sample_bracket(const Row<T>& row, int64_t candidates, int64_t k, std::vector<T>& keys) {
    const double wanted = std::cbrt(double(candidates) * double(candidates));
    const int64_t positions =
        std::min<int64_t>(row.n, int64_t(wanted * double(row.n) / double(candidates)));
    const double stride = double(row.n) / double(positions);
    keys.clear();
    for (int64_t j = 0; j < positions; ++j) {
        const uint32_t hash = static_cast<uint32_t>(j) * 2654435761u;
        const int64_t i = int64_t((double(j) + hash * 0x1p-32) * stride);
        if (i < row.n && row.is_candidate(i)) keys.push_back(row.key(i));
    }
    return bracket_of(keys, double(k) / double(candidates));
}

// Scans the row's parts in parallel, and gathers the inside keys unless the bracket is one point.
// Sets `complete` to false if ties filled the bracket; then not all inside keys are gathered.
template <class T>
Scan<T> scan_row(const Row<T>& row, Bracket<T> bracket, int64_t most, std::vector<T>& gathered,
                 bool& complete) {
    constexpr int64_t step = 4096;
    std::vector<Scan<T>> scans(row.parts);
    std::vector<std::vector<T>> others(row.parts - 1);  // part 0 uses `gathered` itself
    gathered.clear();
    const bool gather = !bracket.is_point();
    row.for_each_part([&](int64_t part) {
        std::vector<T>& keys = part == 0 ? gathered : others[part - 1];
        Scan<T> total;
        for (int64_t i = row.begin(part); i < row.begin(part + 1); i += step) {
            const int64_t n = std::min(step, row.begin(part + 1) - i);
            const bool fits = total.inside <= most;
            if (gather && fits && int64_t(keys.size()) < total.inside + n)
                keys.resize(total.inside + std::max(n, total.inside / 2));
            const Scan<T> found = row.loops->scan(
                row.score + i, row.among ? row.among + i : nullptr, n, bracket.lo, bracket.hi,
                row.inf, gather && fits ? keys.data() + total.inside : nullptr);
            total.above += found.above;
            total.inside += found.inside;
            total.has_nan |= found.has_nan;
        }
        if (gather && total.inside <= most) keys.resize(total.inside);
        scans[part] = total;
    });
    Scan<T> sum;
    complete = true;
    for (int part = 0; part < row.parts; ++part) {
        sum.above += scans[part].above;
        sum.inside += scans[part].inside;
        sum.has_nan |= scans[part].has_nan;
        complete &= !gather || scans[part].inside <= most;
        if (part && complete)
            gathered.insert(gathered.end(), others[part - 1].begin(), others[part - 1].end());
    }
    return sum;
}

// Exact for any data, with 2 passes for 16-bit keys, 3 for 32, 6 for 64, and 16 KB of counts per
// part.
template <class T>
Threshold<T> radix_threshold(const Row<T>& row, int64_t k) {
    using U = std::make_unsigned_t<T>;
    constexpr int digit = 11, width = 8 * sizeof(T);
    using Counts = std::array<int64_t, 1 << digit>;
    std::vector<Counts> counts(row.parts);
    U prefix = 0;
    Threshold<T> result;
    for (int top = width; top > 0; top -= digit) {
        const int shift = std::max(0, top - digit);
        const U digit_mask = static_cast<U>((uint64_t{1} << (top - shift)) - 1);
        row.for_each_part([&](int64_t part) {
            Counts& mine = counts[part];
            mine.fill(0);
            for (int64_t i = row.begin(part); i < row.begin(part + 1); ++i) {
                const U code = static_cast<U>(row.key(i)) ^ U(U{1} << (width - 1));
                const bool match = top == width || U(code >> (top % width)) == prefix;
                if (match && row.is_candidate(i)) ++mine[U(code >> shift) & digit_mask];
            }
        });
        for (int part = 1; part < row.parts; ++part)
            for (size_t d = 0; d < counts[0].size(); ++d) counts[0][d] += counts[part][d];
        int64_t d = digit_mask;
        for (; d > 0 && counts[0][d] < k; --d) k -= counts[0][d];
        prefix = static_cast<U>(prefix << (top - shift) | U(d));
        result.equal = counts[0][d];
    }
    result.key = static_cast<T>(prefix ^ U(U{1} << (width - 1)));
    result.ties = k;
    return result;
}

// Returns the threshold at the `rank`-th largest of the gathered keys.
template <class T>
Threshold<T> threshold_of(std::vector<T>& keys, int64_t rank) {
    const auto nth = keys.begin() + (rank - 1);
    std::nth_element(keys.begin(), nth, keys.end(), std::greater<T>());
    Threshold<T> result;
    result.key = *nth;
    result.ties = std::count(keys.begin(), nth, *nth) + 1;
    result.equal = result.ties + std::count(nth + 1, keys.end(), *nth);
    return result;
}

// Requires 0 < k < candidates.
template <class T>
Threshold<T> find_threshold(const Row<T>& row, int64_t candidates, int64_t k,
                            std::vector<T>& keys) {
    constexpr int64_t gather_all = 256;  // with fewer candidates, a sample costs more than it saves
    Bracket<T> sampled;
    if (candidates > gather_all) sampled = sample_bracket(row, candidates, k, keys);
    const Bracket<T> bracket = sampled.without_shared_ends();
    const int64_t most = std::max<int64_t>(8192, candidates / 4);
    bool complete = false;
    Scan<T> scan = scan_row(row, bracket, most, keys, complete);
    Threshold<T> result;
    result.has_nan = scan.has_nan;
    if (scan.has_nan) return result;

    const bool higher = k <= scan.above, lower = k > scan.above + scan.inside;
    if (!higher && !lower && complete && !bracket.is_point())
        return threshold_of(keys, k - scan.above);
    Bracket<T> point = bracket;
    if ((higher && sampled.hi_shared) || (lower && sampled.lo_shared)) {
        point.lo = point.hi = higher ? sampled.hi : sampled.lo;
        scan = scan_row(row, point, most, keys, complete);
    }
    if (!point.is_point() || k <= scan.above || k > scan.above + scan.inside)
        return radix_threshold(row, k);
    result.key = point.lo;
    result.ties = k - scan.above;
    result.equal = scan.inside;
    return result;
}

}  // namespace sparsewright
