// select: per row, mark the `num` largest scores among the candidates; ties go to the lower index.
//
// Scores are compared as integers: with s the bits of a float as a signed integer,
//   key = s & max                      (magnitude)
//   key = s < 0 ? -(s & max) : s       (signed)
// rises with the value, has -0 == +0, is the same for every float format of one width, and does
// not depend on the CPU's flush-to-zero mode. NaN is (s & max) > inf, the format's bits of +inf.
#pragma once

#include <cstdint>
#include <limits>

#include "cpu.h"

namespace sw {

template <class T>
inline constexpr T max_key = std::numeric_limits<T>::max();
template <class T>
inline constexpr T min_key = -std::numeric_limits<T>::max();

// Always inline: a shared copy could be one compiled for an instruction set the CPU lacks.
template <bool Magnitude, class T>
[[gnu::always_inline]] inline T key_of(T bits) {
    const T size = static_cast<T>(bits & max_key<T>);
    return Magnitude || bits >= 0 ? size : static_cast<T>(-size);
}

// Up to here a row is selected where it lies in the first-level cache, by repeated scans.
inline constexpr int64_t short_row = 4096;

template <class T>
struct Scan {
    int64_t above = 0;   // candidates with key > hi
    int64_t inside = 0;  // candidates with lo <= key <= hi
    bool has_nan = false;
};

// Loops over a contiguous run of scores. `among` may be null: every position is a candidate.
template <class T>
struct SelectLoops {
    // Counts; with `gathered`, also writes the inside keys there (room for n).
    Scan<T> (*scan)(const T* score, const uint8_t* among, int64_t n, T lo, T hi, T inf,
                    T* gathered);
    // out = key > threshold, and key == threshold for the first `ties` of those.
    void (*mark)(const T* score, const uint8_t* among, int64_t n, T threshold, int64_t ties,
                 uint8_t* out);
    // select for rows of at most short_row entries; the first row with a NaN, or -1.
    int64_t (*short_rows)(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                          const int64_t* num, T inf, uint8_t* out);
};

// Loops over masks (bytes, zero = False).
struct MaskLoops {
    int64_t (*count)(const uint8_t* mask, int64_t n);
    void (*count_changes)(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n,
                          int64_t* dropped, int64_t* grown);
};

struct AllLoops {
    SelectLoops<int16_t> select16[2];  // [signed, magnitude]
    SelectLoops<int32_t> select32[2];
    SelectLoops<int64_t> select64[2];
    MaskLoops mask;

    template <class T>
    const SelectLoops<T>& select(bool magnitude) const {
        if constexpr (sizeof(T) == 2) return select16[magnitude];
        else if constexpr (sizeof(T) == 4) return select32[magnitude];
        else return select64[magnitude];
    }
};

extern const AllLoops loops_portable;
#if SW_X86
extern const AllLoops loops_avx2;
extern const AllLoops loops_avx512;
#endif

inline const AllLoops& loops_for(Isa isa) {
#if SW_X86
    if (isa == Isa::avx512) return loops_avx512;
    if (isa == Isa::avx2) return loops_avx2;
#endif
    (void)isa;
    return loops_portable;
}

enum class Format : int { float16 = 0, bfloat16 = 1, float32 = 2, float64 = 3 };

struct SelectTask {
    const void* score;     // [rows, n], contiguous
    const uint8_t* among;  // [rows, n] or null
    const int64_t* num;    // [rows]
    uint8_t* out;          // [rows, n]
    int64_t rows;
    int64_t n;
    Format format;
    bool magnitude;
};

// The first row with a NaN among its candidates (out is then undefined), or -1.
int64_t select(const SelectTask& task, int threads, Isa isa);

// counts[row] = number of True in the row.
void count_rows(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts, int threads,
                Isa isa);

struct Changes {
    int64_t dropped;  // old & ~new
    int64_t grown;    // new & ~old
};
Changes count_changes(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n, int threads,
                      Isa isa);

}  // namespace sw
