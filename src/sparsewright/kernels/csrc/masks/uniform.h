// Counter-based uniform numbers: out[i] depends only on the key and `first + i`.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace sparsewright {

void uniform(float* out, int64_t n, uint64_t key, uint64_t first, int threads, Isa isa);

}  // namespace sparsewright
