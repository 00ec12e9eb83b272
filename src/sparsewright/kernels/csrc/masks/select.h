// select marks the `num` largest scores among the candidates of each row. Lower indices win ties.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

struct SelectTask {
    const void* score;     // [rows, n], contiguous
    const uint8_t* among;  // [rows, n] or null
    const int64_t* num;    // the number for row r is num[r * num_step]
    int64_t num_step;      // 0 if all rows have the same number
    uint8_t* out;          // [rows, n]
    int64_t rows;
    int64_t n;
    Dtype dtype;
    bool magnitude;
};

// Returns the first row with a NaN among its candidates (`out` is then undefined), or -1.
int64_t select(const SelectTask& task, int threads, Isa isa);

}  // namespace sparsewright
