// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
// 2014, figure 17). The state of step i is key + (i + 1) * gamma, so any step can be computed
// directly. The loop is in an anonymous namespace, so that the linker never shares code between
// units.
#pragma once

#include <cstdint>

namespace sparsewright {
namespace {

void uniform_loop(float* out, int64_t n, uint64_t key, uint64_t first) {
    for (int64_t i = 0; i < n; ++i) {
        uint64_t z = key + (first + static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        out[i] = static_cast<float>(static_cast<int32_t>(z >> 40)) * 0x1p-24f;
    }
}

}  // namespace
}  // namespace sparsewright
