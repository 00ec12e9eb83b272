// Vec with four floats and the operations that product_loops.h needs.
#pragma once

#include <cstdint>
#include <cstring>

#include "csr/bf16.h"

namespace sparsewright {
namespace {

// Four lanes with the vector extension of GCC and clang, for SSE2, NEON and other targets.
// An array of four floats with loops was 5x slower.
struct Vec {
    static constexpr int width = 4;
    typedef float Lanes __attribute__((vector_size(16)));
    Lanes v;
    static Vec zero() { return broadcast(0.f); }
    static Vec broadcast(float f) { return {Lanes{f, f, f, f}}; }
    static Vec broadcast(const float* p) { return broadcast(*p); }
    static Vec load(const float* p) {
        Vec a;
        std::memcpy(&a.v, p, sizeof a.v);
        return a;
    }
    static Vec load(const uint16_t* p) {
        return {Lanes{bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]),
                      bf16_to_float(p[3])}};
    }
    void store(float* p) const { std::memcpy(p, &v, sizeof v); }
    void store(uint16_t* p) const {
        for (int i = 0; i < 4; ++i) p[i] = float_to_bf16(v[i]);
    }
};
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline void transpose(Vec (&t)[4]) {
    Vec s[4];
    for (int i = 0; i < 4; ++i) s[i].v = Vec::Lanes{t[0].v[i], t[1].v[i], t[2].v[i], t[3].v[i]};
    for (int i = 0; i < 4; ++i) t[i] = s[i];
}
inline float sum(Vec a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
inline void add_sums(const Vec (&t)[4], float* out) {
    for (int i = 0; i < 4; ++i) out[i] += sum(t[i]);
}

}  // namespace
}  // namespace sparsewright
