// Uniform numbers by counter: out[i] depends on the key and on `first + i` alone.
#pragma once

#include <cstdint>

#include "cpu.h"

namespace sw {

using UniformFn = void (*)(float* out, int64_t n, uint64_t key, uint64_t first);

void uniform(float* out, int64_t n, uint64_t key, uint64_t first, int threads, Isa isa);

extern const UniformFn uniform_portable;
#if SW_X86
extern const UniformFn uniform_avx512;
#endif

}  // namespace sw
