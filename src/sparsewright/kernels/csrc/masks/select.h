// select: per row, mark the `num` largest scores among the candidates; ties go to the lower index.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

struct SelectTask {
    const void* score;     // [rows, n], contiguous
    const uint8_t* among;  // [rows, n] or null
    const int64_t* num;    // of row r: num[r * num_step]
    int64_t num_step;      // 0: one number for all rows
    uint8_t* out;          // [rows, n]
    int64_t rows;
    int64_t n;
    Dtype dtype;
    bool magnitude;
};

// The first row with a NaN among its candidates (out is then undefined), or -1.
int64_t select(const SelectTask& task, int threads, Isa isa);

}  // namespace sparsewright
