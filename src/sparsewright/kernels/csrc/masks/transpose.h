// Copies between memory and rows of lanes: rows[j * width + lane] is entry j of a lane's group. See
// groups.h for the groups. With the group size and the number of lanes as constants, the compiler
// turns the loops into permutations of vectors, which is 3 to 8 times faster than single entries.
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

// Copies up to `most` bytes without a call.
template <int most>
[[gnu::always_inline]] inline void copy_up_to(char* to, const char* from, int64_t size) {
    if constexpr (most == 1) {
        if (size) *to = *from;
    } else {
        constexpr int half = most / 2;
        if (size < half) return copy_up_to<half>(to, from, size);
        char first[half], last[half];
        std::memcpy(first, from, half);
        std::memcpy(last, from + size - half, half);
        std::memcpy(to, first, half);
        std::memcpy(to + size - half, last, half);
    }
}

template <class T>
void copy(T* to, const T* from, int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    if (size > 64)
        std::memcpy(to, from, size);
    else
        copy_up_to<64>(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from), size);
}

template <int width, class T>
class Transpose {
  public:
    Transpose(int m, int64_t inner) : m(m), inner(inner) {}

    // Reads `count` groups from the group `first` on.
    void load(const T* from, int64_t first, int count, T* rows) const {
        if (inner > 1)
            for_each_run(first, count, [&](int64_t at, int lane, int64_t length) {
                for (int j = 0; j < m; ++j)
                    copy(rows + j * width + lane, from + at + j * inner, length);
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
                for (int j = 0; j < m; ++j) copy(to + at + j * inner, rows + j * width + lane, length);
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
    void load_all(const T* __restrict from, T* __restrict rows) const {
        const int step = size ? size : m;
        for (int lane = 0; lane < width; ++lane)
#pragma GCC unroll 32
            for (int j = 0; j < step; ++j) rows[j * width + lane] = from[lane * step + j];
    }

    template <int size>
    void store_all(T* __restrict to, const T* __restrict rows) const {
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
