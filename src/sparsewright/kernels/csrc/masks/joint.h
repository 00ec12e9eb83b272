// The largest entries of several tensors together.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"
#include "common/isa.h"

namespace sparsewright {

struct JointTensor {
    const void* score;
    const uint8_t* among;  // the candidates, or null for all entries
    int64_t n;
};

// Sets counts[i] to the number of entries of tensor i that are among the `num` largest of all
// tensors, by |entry| or by value; on ties, the entries of earlier tensors count. All tensors have
// one dtype. Returns false if a candidate is NaN.
bool count_largest(const std::vector<JointTensor>& tensors, Dtype dtype, int64_t num,
                   bool magnitude, std::vector<int64_t>& counts, int threads, Isa isa);

}  // namespace sparsewright
