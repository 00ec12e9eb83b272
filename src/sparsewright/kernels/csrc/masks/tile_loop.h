// The loop of 4x4 tiles. Each lane of a vector has its own tile. A score becomes an integer whose
// sums are exact, as in kernels/reference/tiles.py. Below that integer are 9 bits that make the sum
// of a pattern's entries end with the pattern itself, so a maximum finds the best pattern and
// resolves ties. The best pairs of rows are found for each half of the tile, and then joined.
#pragma once

#include <cstring>

#include "masks/groups.h"
#include "masks/keys.h"
#include "masks/transpose.h"
#include "masks/tile_patterns.h"

namespace sparsewright {
namespace {

constexpr int pattern_bits = 9;
constexpr int finite_bits = 39, infinite_bits = 44, first_bits_of_tile = 49;

template <class To, class From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Scores of one dtype as bits. Infinity and NaN have no value.
struct HalfBits {
    using T = int16_t;
    static constexpr T inf = 0x7c00;
    static double value(T bits) {
        const uint32_t size = static_cast<uint32_t>(bits & 0x7fff) << 13;
        const float normal = bits_as<float>(size + (112u << 23));
        const float small = bits_as<float>(size + (113u << 23)) - 0x1p-14f;
        const float either = size < (1u << 23) ? small : normal;
        return bits < 0 ? -either : either;
    }
};
struct BfloatBits {
    using T = int16_t;
    static constexpr T inf = 0x7f80;
    static double value(T bits) {
        return bits_as<float>(static_cast<uint32_t>(static_cast<uint16_t>(bits)) << 16);
    }
};
struct FloatBits {
    using T = int32_t;
    static constexpr T inf = 0x7f800000;
    static double value(T bits) { return bits_as<float>(bits); }
};
struct DoubleBits {
    using T = int64_t;
    static constexpr T inf = 0x7ff0000000000000;
    static double value(T bits) { return bits_as<double>(bits); }
};

template <class Format>
class Tiles {
  public:
    explicit Tiles(const GroupTask& task)
        : task(task), scores(tile_side, task.inner), masks(tile_side, task.inner) {}

    bool run(int64_t begin, int64_t end) {
        std::memset(given, !task.fill, sizeof given);
        bool nan = false;
        for (int64_t first = begin; first < end; first += width) {
            const int count = static_cast<int>(end - first < width ? end - first : width);
            if (count < width) std::memset(bits, 0, sizeof bits);
            for_each_line(first, count, [&](int64_t at, int64_t group, int lane, int size, int row) {
                const int to = row * tile_side * width + lane;
                scores.load(static_cast<const T*>(task.score) + at, group, size, bits + to);
                if (task.mask) masks.load(task.mask + at, group, size, given + to);
            });
            nan |= read();
            scale();
            choose();
            mark();
            for_each_line(first, count, [&](int64_t at, int64_t group, int lane, int size, int row) {
                masks.store(task.out + at, group, size, marked + row * tile_side * width + lane);
            });
        }
        return !nan;
    }

  private:
    using T = typename Format::T;
    typedef int64_t Vector __attribute__((vector_size(Block::vector_bytes)));
    static constexpr int width = 32, lanes = Block::vector_bytes / sizeof(int64_t);
    static constexpr int area = tile_side * tile_side, room = area * width;

    // Calls f(start of a line in memory, first group, lane, number of groups, row) for all four
    // rows of tiles that are neighbors in memory.
    template <class F>
    void for_each_line(int64_t first, int count, const F& f) const {
        const int64_t per_row = task.tiles_per_row;
        for (int lane = 0; lane < count;) {
            const int64_t row = (first + lane) / per_row, group = (first + lane) % per_row;
            const int64_t left = per_row - group;
            const int size = left < count - lane ? static_cast<int>(left) : count - lane;
            for (int r = 0; r < tile_side; ++r)
                f((row * tile_side + r) * per_row * tile_side, group, lane, size, r);
            lane += size;
        }
    }

    // Separates scores into finite values and integers for the rest. Returns whether one is NaN.
    bool read() {
        const T sign = task.magnitude ? max_key<T> : static_cast<T>(-1);
        const bool fill = task.fill;
        T nan = 0;
        for (int lane = 0; lane < width; ++lane) largest[lane] = 0;
        for (int p = 0; p < room; p += width)
            for (int lane = 0; lane < width; ++lane) {
                const bool first = given[p + lane] != 0;
                const T score = first != fill ? static_cast<T>(bits[p + lane] & sign) : T{0};
                const T size = key_of<true>(score);
                nan |= size > Format::inf;
                const double value = size < Format::inf ? Format::value(score) : 0;
                const int64_t infinite = int64_t{1} << (infinite_bits + pattern_bits);
                const int64_t rest = size < Format::inf ? 0 : score < 0 ? -infinite : infinite;
                values[p + lane] = value;
                const double above = value < 0 ? -value : value;
                largest[lane] = largest[lane] > above ? largest[lane] : above;
                integers[p + lane] =
                    rest + (first ? int64_t{1} << (first_bits_of_tile + pattern_bits) : 0);
            }
        return nan != 0;
    }

    // Adds the scaled and rounded values to the integers, and the bits of the pattern.
    void scale() {
        double factor[width];
        for (int lane = 0; lane < width; ++lane) {
            int64_t exponent = bits_as<int64_t>(largest[lane]) >> 52;
            exponent = exponent < finite_bits - 1 ? finite_bits - 1 : exponent;
            factor[lane] = bits_as<double>((2045 + finite_bits - exponent) << 52);
        }
        const double to_integer = 0x1.8p52;  // the sum's lowest bits are the rounded value
        for (int entry = 0; entry < area; ++entry) {
            const int row = entry / tile_side, column = entry % tile_side;
            const int64_t own = row < 3 && column < 3 ? int64_t{1} << (8 - 3 * row - column) : 0;
            for (int lane = 0; lane < width; ++lane) {
                const int p = entry * width + lane;
                const int64_t sum = bits_as<int64_t>(values[p] * factor[lane] + to_integer);
                const int64_t rounded = sum - bits_as<int64_t>(to_integer);
                integers[p] += static_cast<int64_t>(static_cast<uint64_t>(rounded) << pattern_bits) + own;
            }
        }
    }

    void choose() {
        if (task.n == 1) choose_of<1>();
        if (task.n == 2) choose_of<2>();
        if (task.n == 3) choose_of<3>();
        if (task.n == 4) choose_of<4>();
    }

    static Vector load(const int64_t* from) {
        Vector vector;
        std::memcpy(&vector, from, sizeof vector);
        return vector;
    }
    static Vector larger(const Vector& a, const Vector& b) { return a > b ? a : b; }

    // Finds the pattern with the largest sum.
    template <int n>
    void choose_of() {
        static constexpr TilePatterns<n> patterns;
        constexpr int sets = patterns.sets, pairs = patterns.pairs;
        for (int lane = 0; lane < width; lane += lanes) {
            Vector sum[tile_side][sets], upper[patterns.classes], lower[patterns.classes];
#pragma GCC unroll 4
            for (int row = 0; row < tile_side; ++row) {
                Vector entry[tile_side];
#pragma GCC unroll 4
                for (int c = 0; c < tile_side; ++c)
                    entry[c] = load(integers + (row * tile_side + c) * width + lane);
#pragma GCC unroll 6
                for (int set = 0; set < sets; ++set) {
                    Vector total = {};
#pragma GCC unroll 4
                    for (int c = 0; c < tile_side; ++c)
                        if (patterns.columns[set] >> (3 - c) & 1) total += entry[c];
                    sum[row][set] = total;
                }
            }
            const Vector least = Vector{} + std::numeric_limits<int64_t>::min() / 2;
#pragma GCC unroll 19
            for (int k = 0; k < patterns.classes; ++k) upper[k] = lower[k] = least;
#pragma GCC unroll 36
            for (int pair = 0; pair < pairs; ++pair) {
                const int a = pair / sets, b = pair % sets;
                const int up = patterns.upper[pair], low = patterns.lower[pair];
                if (up >= 0) upper[up] = larger(upper[up], sum[0][a] + sum[1][b]);
                if (low >= 0) lower[low] = larger(lower[low], sum[2][a] + sum[3][b]);
            }
            Vector best = least * 2;
#pragma GCC unroll 19
            for (int k = 0; k < patterns.classes; ++k) best = larger(best, upper[k] + lower[k]);
            for (int i = 0; i < lanes; ++i)
                chosen[lane + i] = patterns.entries[best[i] & ((1 << pattern_bits) - 1)];
        }
    }

    void mark() {
        const bool fill = task.fill;
        for (int entry = 0; entry < area; ++entry)
            for (int lane = 0; lane < width; ++lane) {
                const int p = entry * width + lane;
                const bool is_chosen = chosen[lane] >> entry & 1, is_given = given[p] != 0;
                marked[p] = fill ? is_chosen | is_given : is_chosen & is_given;
            }
    }

    const GroupTask& task;
    const Transpose<width, T> scores;
    const Transpose<width, uint8_t> masks;
    T bits[room];
    double values[room], largest[width];
    int64_t integers[room];
    uint8_t given[room], marked[room];
    uint16_t chosen[width];
};

template <class Format>
bool tile_loop(const GroupTask& task, int64_t begin, int64_t end) {
    return Tiles<Format>(task).run(begin, end);
}

}  // namespace
}  // namespace sparsewright
