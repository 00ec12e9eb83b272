// The patterns of a 4x4 tile with n entries in each row and column, as tables for the compiler.
#pragma once

#include <cstdint>

#include "masks/groups.h"

namespace sparsewright {
namespace {

// A pattern is a pair of sets of columns for the upper two rows and a pair for the lower two. Which
// lower pairs complete an upper pair depends only on the upper pair's number of entries in each
// column. Upper pairs with equal numbers are a class, and so are the lower pairs that complete
// them.
template <int n>
struct TilePatterns {
    static constexpr int sets = n == 2 ? 6 : n == 4 ? 1 : 4, pairs = sets * sets;

    int columns[sets] = {};  // bit 3 - c is set for column c; the first columns come first
    int upper[pairs] = {}, lower[pairs] = {};  // class, or -1; pair first * sets + second
    int classes = 0;
    // Entries by bits of the columns 0, 1 and 2 of the rows 0, 1 and 2, which determine the rest.
    uint16_t entries[512] = {};

    constexpr TilePatterns() {
        int found = 0;
        for (int bits = 15; bits >= 0; --bits)
            if (count(bits) == n) columns[found++] = bits;
        find_classes();
        for (int a = 0; a < sets; ++a)
            for (int b = 0; b < sets; ++b)
                for (int c = 0; c < sets; ++c) add_entries(columns[a], columns[b], columns[c]);
    }

  private:
    static constexpr int count(int bits) {
        return (bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1) + (bits >> 3);
    }
    // Returns two bits per column.
    static constexpr int spread(int bits) {
        return (bits & 1) | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3;
    }
    constexpr int sums(int pair) const {
        return spread(columns[pair / sets]) + spread(columns[pair % sets]);
    }
    constexpr bool completes(int pair, int other) const {
        for (int c = 0; c < 8; c += 2)
            if ((sums(pair) >> c & 3) + (sums(other) >> c & 3) != n) return false;
        return true;
    }

    constexpr void find_classes() {
        for (int pair = 0; pair < pairs; ++pair) upper[pair] = lower[pair] = -1;
        for (int pair = 0; pair < pairs; ++pair) {
            if (upper[pair] >= 0) continue;
            bool possible = false;
            for (int other = 0; other < pairs; ++other)
                if (completes(pair, other)) {
                    lower[other] = classes;
                    possible = true;
                }
            for (int other = pair; other < pairs && possible; ++other)
                if (sums(other) == sums(pair)) upper[other] = classes;
            classes += possible;
        }
    }

    constexpr void add_entries(int a, int b, int c) {
        int last = 0;
        for (int column = 0; column < 4; ++column) {
            const int sum = (a >> column & 1) + (b >> column & 1) + (c >> column & 1);
            if (sum != n && sum != n - 1) return;
            last |= (n - sum) << column;
        }
        const int rows[] = {a, b, c, last};
        unsigned all = 0;
        for (int r = 0; r < 4; ++r)
            for (int column = 0; column < 4; ++column)
                all |= unsigned(rows[r] >> (3 - column) & 1) << (4 * r + column);
        entries[(a >> 1) << 6 | (b >> 1) << 3 | c >> 1] = static_cast<uint16_t>(all);
    }
};

}  // namespace
}  // namespace sparsewright
