// Vec with eight floats and the operations that product_loops.h needs.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

struct Vec {
    static constexpr int width = 8;
    __m256 v;
    static Vec zero() { return {_mm256_setzero_ps()}; }
    static Vec broadcast(float f) { return {_mm256_set1_ps(f)}; }
    static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec load(const uint16_t* p) {
        __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
    }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store(uint16_t* p) const {
        __m256i u = _mm256_castps_si256(v);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        __m256i r = _mm256_srli_epi32(
            _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    }
};
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }

inline void transpose(Vec (&t)[8]) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(t[i].v, t[i + 1].v);
        a[i + 1] = _mm256_unpackhi_ps(t[i].v, t[i + 1].v);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
        t[j] = {_mm256_permute2f128_ps(b[j], b[j + 4], 0x20)};
        t[j + 4] = {_mm256_permute2f128_ps(b[j], b[j + 4], 0x31)};
    }
}

inline void add_sums(const Vec (&t)[4], float* out) {
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(t[0].v, t[1].v), _mm256_hadd_ps(t[2].v, t[3].v));
    __m128 f = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), f));
}

inline float sum(Vec a) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    __m128 p = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(p, _mm_movehdup_ps(p)));
}

}  // namespace
}  // namespace sparsewright
