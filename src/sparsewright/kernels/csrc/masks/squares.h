// Histograms of squares, for LAMP scores. The square of an entry is that of min(|entry|, 2^500) in
// float64; its bits increase with |entry|.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

struct SquareBins {
    const int64_t* prefixes;  // ascending
    int64_t num;
    int shift, width;

    int64_t size() const { return num << width; }
};

// Adds to table[3][num << width], for each value of the `width` bits above the lowest `shift` bits,
// and each prefix of the bits above them: the number of entries, and the upper bits and the lower
// 26 bits of the sum of their mantissas. Other entries are ignored.
void tabulate_squares(const void* entries, Dtype dtype, int64_t n, const SquareBins& bins,
                      int64_t* table, int threads);

// Writes to `out` each |entry| whose square has bits in low..high, in order. Returns their number.
// Requires that no entry is NaN.
int64_t gather_squares(const void* entries, Dtype dtype, int64_t n, uint64_t low, uint64_t high,
                       void* out, Isa isa);

}  // namespace sparsewright
