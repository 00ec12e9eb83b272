// The choice of patterns for a few 4x4 tiles, one in each lane of a vector. The functions are not
// inlined, because inlined copies for each dtype would triple the size of the library.
#pragma once

#include <cstring>
#include <limits>

#include "masks/groups.h"
#include "masks/tile_patterns.h"

namespace sparsewright {
namespace {

// Entry e of the tile in a lane is at [e * width + lane].
struct TileStrip {
    static constexpr int width = 32, area = tile_side * tile_side, size = area * width;

    double values[size];     // finite scores; in: set by the caller
    uint8_t given[size];     // entries of the mask; in
    int64_t integers[size];  // below
    uint16_t chosen[width];  // the entries of the chosen pattern
    uint8_t marked[size];    // out

    // The integers of reference/tiles.py, shifted left by 9 bits. The 9 bits make the sum of a
    // pattern end with the pattern's columns 0, 1, 2 in its rows 0, 1, 2. A maximum thus finds the
    // best pattern, and the first of equal ones.
    static constexpr int pattern_bits = 9;
    static constexpr int finite_bits = 39, infinite_bits = 44, preferred_bits = 49;

    static int64_t bits_of(double value) {
        int64_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        return bits;
    }

    // Computes the integers of finite scores.
    [[gnu::noinline]] void scale() {
        double factor[width] = {};
        for (int p = 0; p < size; p += width)
            for (int lane = 0; lane < width; ++lane) {
                const double value = values[p + lane], above = value < 0 ? -value : value;
                factor[lane] = factor[lane] > above ? factor[lane] : above;
            }
        for (int lane = 0; lane < width; ++lane) {
            int64_t exponent = bits_of(factor[lane]) >> 52;
            exponent = exponent < finite_bits - 1 ? finite_bits - 1 : exponent;
            const int64_t power = (2045 + finite_bits - exponent) << 52;
            std::memcpy(&factor[lane], &power, sizeof power);
        }
        const double to_integer =
            0x1.8p52;  // a sum with it ends with the bits of the rounded value
        for (int entry = 0; entry < area; ++entry) {
            const int row = entry / tile_side, column = entry % tile_side;
            const int64_t own = row < 3 && column < 3 ? int64_t{1} << (8 - 3 * row - column) : 0;
            for (int lane = 0; lane < width; ++lane) {
                const int p = entry * width + lane;
                const int64_t preferred = given[p] ? int64_t{1} << preferred_bits : 0;
                const int64_t sum = bits_of(values[p] * factor[lane] + to_integer);
                const int64_t value = sum - bits_of(to_integer) + preferred;
                integers[p] = value * (1 << pattern_bits) + own;
            }
        }
    }

    void add_infinite(int p, bool positive) {
        const int64_t value = int64_t{1} << (infinite_bits + pattern_bits);
        integers[p] += positive ? value : -value;
    }

    void choose(int n) {
        if (n == 1) choose_of<1>();
        if (n == 2) choose_of<2>();
        if (n == 3) choose_of<3>();
        if (n == 4) choose_of<4>();
    }

    // Marks the chosen entries among the given ones, or with `fill` both.
    [[gnu::noinline]] void mark(bool fill) {
        const uint8_t any = fill;
        for (int entry = 0; entry < area; ++entry)
            for (int lane = 0; lane < width; ++lane) {
                const int p = entry * width + lane;
                const uint8_t own = chosen[lane] >> entry & 1, other = given[p] != 0;
                marked[p] = static_cast<uint8_t>((own & other) | ((own | other) & any));
            }
    }

  private:
    // Without AVX, comparing two 64-bit integers at once is slower than comparing them in turn.
    static constexpr int vector_bytes = Block::vector_bytes > 16 ? Block::vector_bytes : 8;
    static constexpr int lanes = vector_bytes / 8;
    typedef int64_t Vector __attribute__((vector_size(vector_bytes)));

    static Vector load(const int64_t* from) {
        Vector vector;
        std::memcpy(&vector, from, sizeof vector);
        return vector;
    }
    static Vector larger(const Vector& a, const Vector& b) { return a > b ? a : b; }

    // Finds the best pair of upper rows and of lower rows of each class, then the best class.
    template <int n>
    [[gnu::noinline]] void choose_of() {
        static constexpr TilePatterns<n> patterns;
        constexpr int sets = patterns.sets, pairs = patterns.pairs, classes = patterns.classes;
        constexpr int64_t least = std::numeric_limits<int64_t>::min() / 2;
        for (int lane = 0; lane < width; lane += lanes) {
            Vector sum[tile_side][sets], upper[classes], lower[classes];
#pragma GCC unroll 4
            for (int row = 0; row < tile_side; ++row)
#pragma GCC unroll 6
                for (int set = 0; set < sets; ++set) {
                    sum[row][set] = Vector{};
#pragma GCC unroll 4
                    for (int c = 0; c < tile_side; ++c)
                        if (patterns.columns[set] >> (3 - c) & 1)
                            sum[row][set] += load(integers + (row * tile_side + c) * width + lane);
                }
#pragma GCC unroll 19
            for (int k = 0; k < classes; ++k) upper[k] = lower[k] = Vector{} + least;
#pragma GCC unroll 36
            for (int pair = 0; pair < pairs; ++pair) {
                const int a = pair / sets, b = pair % sets;
                const int up = patterns.upper[pair], low = patterns.lower[pair];
                if (up >= 0) upper[up] = larger(upper[up], sum[0][a] + sum[1][b]);
                if (low >= 0) lower[low] = larger(lower[low], sum[2][a] + sum[3][b]);
            }
            Vector best = Vector{} + 2 * least;
#pragma GCC unroll 19
            for (int k = 0; k < classes; ++k) best = larger(best, upper[k] + lower[k]);
            for (int i = 0; i < lanes; ++i)
                chosen[lane + i] = patterns.entries[best[i] & ((1 << pattern_bits) - 1)];
        }
    }
};

}  // namespace
}  // namespace sparsewright
