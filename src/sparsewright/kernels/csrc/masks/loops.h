// The loops over masks and scores that are compiled for each instruction set.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "masks/groups.h"
#include "masks/keys.h"

namespace sparsewright {

// Sets data = where(mask, data, +0), for elements of one width.
using PruneLoop = void (*)(void* data, const uint8_t* mask, int64_t n);

template <class T>
struct Scan {
    int64_t above = 0;   // candidates with key > hi
    int64_t inside = 0;  // candidates with lo <= key <= hi
    bool has_nan = false;
};

// Loops over a contiguous run of scores. If `among` is null, every position is a candidate.
template <class T>
struct SelectLoops {
    // Counts candidates. If `gathered` is not null, also writes the inside keys to it (up to n).
    Scan<T> (*scan)(const T* score, const uint8_t* among, int64_t n, T lo, T hi, T inf,
                    T* gathered);
    // Marks in `out` every key > threshold, and the first `ties` keys == threshold.
    void (*mark)(const T* score, const uint8_t* among, int64_t n, T threshold, int64_t ties,
                 uint8_t* out);
    // Selects in rows of at most short_row entries, num[r * num_step] entries in row r. Returns the
    // first row with a NaN, or -1.
    int64_t (*short_rows)(const T* score, const uint8_t* among, int64_t rows, int64_t n,
                          const int64_t* num, int64_t num_step, T inf, uint8_t* out);
};

// Select in the groups begin..end. `inf` has the bits of infinity. They return false if a candidate
// is NaN.
using NMLoop = bool (*)(const GroupTask& task, int64_t begin, int64_t end, int64_t inf);
using TileLoop = bool (*)(const GroupTask& task, int64_t begin, int64_t end);

struct MaskLoops {
    PruneLoop prune16, prune32, prune64;
    SelectLoops<int16_t> select16[2];  // [signed, magnitude]
    SelectLoops<int32_t> select32[2];
    SelectLoops<int64_t> select64[2];
    // Sets counts[r] to the number of True entries in row r.
    void (*count_rows)(const uint8_t* mask, int64_t rows, int64_t n, int64_t* counts);
    void (*count_changes)(const uint8_t* old_mask, const uint8_t* new_mask, int64_t n,
                          int64_t* dropped, int64_t* grown);
    void (*uniform)(float* out, int64_t n, uint64_t key, uint64_t first);
    NMLoop n_m16, n_m32, n_m64;
    TileLoop tiles_half, tiles_bfloat, tiles_float, tiles_double;

    PruneLoop prune(int itemsize) const {
        return itemsize == 2 ? prune16 : itemsize == 4 ? prune32 : prune64;
    }
    template <class T>
    const SelectLoops<T>& select(bool magnitude) const {
        if constexpr (sizeof(T) == 2)
            return select16[magnitude];
        else if constexpr (sizeof(T) == 4)
            return select32[magnitude];
        else
            return select64[magnitude];
    }
};

// Defined in masks_portable.cpp, masks_avx2.cpp and masks_avx512.cpp.
const MaskLoops& mask_loops(Portable);
const MaskLoops& mask_loops(Avx2);
const MaskLoops& mask_loops(Avx512);

inline const MaskLoops& mask_loops(Isa isa) {
    return with_isa(isa, [](auto which) -> const MaskLoops& { return mask_loops(which); });
}

}  // namespace sparsewright
