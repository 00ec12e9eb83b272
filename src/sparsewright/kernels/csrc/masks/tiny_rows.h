// The select loops for the shortest rows, many together. An entry is chosen if fewer than `num`
// entries of its row beat it. Whole vectors are compared with their neighbors at each distance d
// within a row, with the vector extension of GCC and clang.
#pragma once

#include <cstring>

#include "masks/keys.h"

namespace sparsewright {
namespace {

constexpr int64_t tiny_row = 16;  // longer rows are faster in short_rows.h

template <class T, bool Magnitude>
class TinyRows {
  public:
    explicit TinyRows(int64_t n) : n(n), most_rows(room / n) {
        for (int64_t p = 0; p < room; ++p) place[p] = static_cast<T>(p % n);
    }

    // Marks num[r * num_step] entries in row r. Returns the first row with a NaN, or -1.
    int64_t run(const T* score, const uint8_t* among, int64_t rows, const int64_t* num,
                int64_t num_step, T inf, uint8_t* out) {
        for (int64_t first = 0; first < rows; first += most_rows) {
            const int64_t count = rows - first < most_rows ? rows - first : most_rows;
            const T* from = score + first * n;
            const uint8_t* live = among ? among + first * n : nullptr;
            if (read(from, live, count * n, inf)) return first + nan_row(from, live, inf);
            if (num_step || !first) limit_rows(num + first * num_step, num_step, count);
            for (int64_t p = 0; p < count * n; p += lanes) choose(p);
            for (int64_t p = 0; p < count * n; ++p) out[first * n + p] = chosen[p] != 0;
        }
        return -1;
    }

  private:
    typedef T Vector __attribute__((vector_size(Block::vector_bytes)));
    static constexpr int64_t lanes = Block::vector_bytes / sizeof(T), room = 512;
    static constexpr T out_of_play = std::numeric_limits<T>::min();  // below every key

    // Returns whether a candidate is NaN.
    bool read(const T* score, const uint8_t* among, int64_t size, T inf) {
        T nan = 0;
        for (int64_t p = 0; p < size; ++p) key[p] = key_of<Magnitude>(score[p]);
        if (among)
            for (int64_t p = 0; p < size; ++p) key[p] = among[p] ? key[p] : out_of_play;
        for (int64_t p = 0; p < size; ++p)
            nan |= (key_of<true>(score[p]) > inf) & (key[p] != out_of_play);
        return nan;
    }

    int64_t nan_row(const T* score, const uint8_t* among, T inf) const {
        int64_t p = 0;
        while (key_of<true>(score[p]) <= inf || (among && !among[p])) ++p;
        return p / n;
    }

    void limit_rows(const int64_t* num, int64_t num_step, int64_t rows) {
        T* limit = most;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t count = num[r * num_step];
            for (int64_t i = 0; i < n; ++i) *limit++ = static_cast<T>(count < n ? count : n);
        }
    }

    static Vector load(const T* from) {
        Vector vector;
        std::memcpy(&vector, from, sizeof vector);
        return vector;
    }

    void choose(int64_t p) {
        const Vector own = load(key + p), at = load(place + p);
        Vector beaten_by = {};  // number of larger entries in the row, plus equal entries before
        for (int64_t d = 1; d < n; ++d) {
            const T before = static_cast<T>(d), after = static_cast<T>(n - d);
            beaten_by -= (at >= before) & (load(key + p - d) >= own);
            beaten_by -= (at < after) & (load(key + p + d) > own);
        }
        const Vector marked = (beaten_by < load(most + p)) & (own != out_of_play);
        std::memcpy(chosen + p, &marked, sizeof marked);
    }

    const int64_t n, most_rows;
    T padded[tiny_row + room + lanes + tiny_row] = {};
    T* const key = padded + tiny_row;
    T place[room + lanes] = {}, most[room + lanes] = {}, chosen[room + lanes];
};

}  // namespace
}  // namespace sparsewright
