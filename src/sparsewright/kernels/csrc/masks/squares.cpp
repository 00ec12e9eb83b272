#include "masks/squares.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "common/parallel.h"
#include "masks/formats.h"
#include "masks/keys.h"
#include "masks/loops.h"

namespace sparsewright {
namespace {

constexpr int64_t entries_per_thread = 1 << 18;
constexpr int mantissa_bits = 52, lower_bits = 26;

template <class Format>
uint64_t square_bits(typename Format::Bits key) {
    double value = Format::value(key);
    value = value > 0x1p500 ? 0x1p500 : value;
    return bit_cast<uint64_t>(value * value);
}

// The number of entries in the upper 32 bits, and the sum of the mantissas in the others.
using Total = unsigned __int128;
constexpr int sum_bits = 96;

template <class Format>
void tabulate(const typename Format::Bits* entries, int64_t n, const SquareBins& bins,
              Total* totals) {
    const int shift = bins.shift, width = bins.width;
    const uint64_t digits = (uint64_t{1} << width) - 1;
    const int64_t *first = bins.prefixes, *last = first + bins.num;
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t bits = square_bits<Format>(key_of<true>(entries[i]));
        const int64_t prefix = static_cast<int64_t>(bits >> (shift + width));
        const int64_t* at = bins.num == 1 ? first : std::lower_bound(first, last, prefix);
        if (at == last || *at != prefix) continue;
        const uint64_t bin = static_cast<uint64_t>(at - first) << width | (bits >> shift & digits);
        const uint64_t mantissa = bits << (64 - mantissa_bits) >> (64 - mantissa_bits);
        totals[bin] += (Total{1} << sum_bits) + (mantissa | uint64_t{1} << mantissa_bits);
    }
}

template <class Format>
void tabulate_all(const void* from, int64_t n, const SquareBins& bins, int64_t* table,
                  int threads) {
    const auto* entries = static_cast<const typename Format::Bits*>(from);
    std::mutex mutex;
    parallel_ranges(threads, n, entries_per_thread, [&](int64_t begin, int64_t end) {
        constexpr int64_t most = int64_t{1} << 31;  // entries whose totals cannot overflow
        for (; begin < end; begin += most) {
            std::vector<Total> totals(bins.size());
            tabulate<Format>(entries + begin, std::min(most, end - begin), bins, totals.data());
            std::lock_guard<std::mutex> lock(mutex);
            for (int64_t b = 0; b < bins.size(); ++b) {
                const Total sum = totals[b] & ((Total{1} << sum_bits) - 1);
                table[b] += static_cast<int64_t>(totals[b] >> sum_bits);
                table[bins.size() + b] += static_cast<int64_t>(sum >> lower_bits);
                table[2 * bins.size() + b] += static_cast<int64_t>(sum) & ((1 << lower_bits) - 1);
            }
        }
    });
}

// Returns the first key in 0..inf whose square has at least these bits, or the key after inf.
template <class Format>
typename Format::Bits first_key(uint64_t bits) {
    int64_t low = 0, high = int64_t{Format::inf} + 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (square_bits<Format>(static_cast<typename Format::Bits>(middle)) < bits)
            low = middle + 1;
        else
            high = middle;
    }
    return static_cast<typename Format::Bits>(low);
}

template <class Format>
int64_t gather(const void* entries, int64_t n, uint64_t low, uint64_t high, void* out, Isa isa) {
    using Bits = typename Format::Bits;
    const Bits lo = first_key<Format>(low);
    const Bits hi = static_cast<Bits>(first_key<Format>(high + 1) - 1);
    return mask_loops(isa)
        .template select<Bits>(true)
        .scan(static_cast<const Bits*>(entries), nullptr, n, lo, hi, Format::inf,
              static_cast<Bits*>(out))
        .inside;
}

template <class F>
auto with_format(Dtype dtype, const F& f) {
    switch (dtype) {
        case Dtype::float16:
            return f(Float16());
        case Dtype::bfloat16:
            return f(BFloat16());
        case Dtype::float32:
            return f(Float32());
        case Dtype::float64:
            return f(Float64());
        default:
            throw std::invalid_argument("entries are not floating point");
    }
}

}  // namespace

void tabulate_squares(const void* entries, Dtype dtype, int64_t n, const SquareBins& bins,
                      int64_t* table, int threads) {
    with_format(dtype, [&](auto format) {
        tabulate_all<decltype(format)>(entries, n, bins, table, threads);
    });
}

int64_t gather_squares(const void* entries, Dtype dtype, int64_t n, uint64_t low, uint64_t high,
                       void* out, Isa isa) {
    return with_format(dtype, [&](auto format) {
        return gather<decltype(format)>(entries, n, low, high, out, isa);
    });
}

}  // namespace sparsewright
