// Copies between memory and rows of lanes: rows[j * width + lane] is entry j of a lane's group. See
// groups.h for the groups. With the group size and the number of lanes as constants, the compiler
// turns the loops into permutations of vectors, which is 3 to 8 times faster than single entries.
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

// Copies `size` bytes, half..2 * half, in each of several rows.
template <int half>
void copy_rows_of(int rows, int64_t size, char* to, int64_t to_step, const char* from,
                  int64_t from_step) {
    for (; rows > 0; --rows, to += to_step, from += from_step) {
        char first[half], last[half];
        std::memcpy(first, from, half);
        std::memcpy(last, from + size - half, half);
        std::memcpy(to, first, half);
        std::memcpy(to + size - half, last, half);
    }
}

// Copies `count` entries in each of several rows. The length decides once
// for all rows; deciding for each row takes twice the time.
template <class T>
[[gnu::noinline]] void copy_rows(int rows, int64_t count, T* to, int64_t to_step, const T* from,
                                 int64_t from_step) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    const auto copy = size <= 2    ? copy_rows_of<1>
                      : size <= 4  ? copy_rows_of<2>
                      : size <= 8  ? copy_rows_of<4>
                      : size <= 16 ? copy_rows_of<8>
                      : size <= 32 ? copy_rows_of<16>
                      : size <= 64 ? copy_rows_of<32>
                                   : nullptr;
    if (copy)
        return copy(rows, size, reinterpret_cast<char*>(to), to_step * sizeof(T),
                    reinterpret_cast<const char*>(from), from_step * sizeof(T));
    for (; rows > 0; --rows, to += to_step, from += from_step) std::memcpy(to, from, size);
}

template <int width, class T>
class Transpose {
  public:
    Transpose(int m, int64_t inner) : m(m), inner(inner) {}

    // Reads `count` groups from the group `first` on.
    void load(const T* from, int64_t first, int count, T* rows) const {
        if (inner > 1)
            for_each_run(first, count, [&](int64_t at, int lane, int64_t length) {
                copy_rows(m, length, rows + lane, width, from + at, inner);
            });
        else if (count == width)
            with_constant_m([&](auto size) { load_all<size>(from + first * m, rows); });
        else
            for (int lane = 0; lane < count; ++lane)
                for (int j = 0; j < m; ++j) rows[j * width + lane] = from[(first + lane) * m + j];
    }

    void store(T* to, int64_t first, int count, const T* rows) const {
        if (inner > 1)
            for_each_run(first, count, [&](int64_t at, int lane, int64_t length) {
                copy_rows(m, length, to + at, inner, rows + lane, width);
            });
        else if (count == width)
            with_constant_m([&](auto size) { store_all<size>(to + first * m, rows); });
        else
            for (int lane = 0; lane < count; ++lane)
                for (int j = 0; j < m; ++j) to[(first + lane) * m + j] = rows[j * width + lane];
    }

  private:
    template <int size>
    struct Constant {
        constexpr operator int() const { return size; }
    };

    // Calls f(Constant<m>()) for common m, and otherwise f(Constant<0>()).
    template <class F>
    void with_constant_m(const F& f) const {
        switch (m) {
            case 2:
                return f(Constant<2>());
            case 4:
                return f(Constant<4>());
            case 8:
                return f(Constant<8>());
            case 16:
                return f(Constant<16>());
            case 32:
                return f(Constant<32>());
            default:
                return f(Constant<0>());
        }
    }

    // Calls f(index of the first entry, lane, length) for each run of groups in one block.
    template <class F>
    void for_each_run(int64_t first, int count, const F& f) const {
        int64_t block = first / inner, k = first % inner;
        for (int lane = 0; lane < count; ++block, k = 0) {
            const int64_t length = inner - k < count - lane ? inner - k : count - lane;
            f(block * m * inner + k, lane, length);
            lane += static_cast<int>(length);
        }
    }

    template <int size>
    [[gnu::noinline]] void load_all(const T* __restrict from, T* __restrict rows) const {
        const int step = size ? size : m;
        for (int lane = 0; lane < width; ++lane)
#pragma GCC unroll 32
            for (int j = 0; j < step; ++j) rows[j * width + lane] = from[lane * step + j];
    }

    template <int size>
    [[gnu::noinline]] void store_all(T* __restrict to, const T* __restrict rows) const {
        const int step = size ? size : m;
        for (int lane = 0; lane < width; ++lane)
#pragma GCC unroll 32
            for (int j = 0; j < step; ++j) to[lane * step + j] = rows[j * width + lane];
    }

    const int m;
    const int64_t inner;
};

}  // namespace
}  // namespace sparsewright
