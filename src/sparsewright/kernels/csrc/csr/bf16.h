// Scalar bfloat16 conversions. They have internal linkage, because files are compiled with
// different flags.
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsewright {

static inline float bf16_to_float(uint16_t b) {
    uint32_t u = uint32_t(b) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

// Rounds to nearest even. Any NaN becomes the quiet NaN that torch writes too.
static inline uint16_t float_to_bf16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace sparsewright
