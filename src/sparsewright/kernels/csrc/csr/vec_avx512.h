// Vec with sixteen floats and the operations that product_loops.h needs.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

struct Vec {
    static constexpr int width = 16;
    __m512 v;
    static Vec zero() { return {_mm512_setzero_ps()}; }
    static Vec broadcast(float f) { return {_mm512_set1_ps(f)}; }
    // Broadcast through an integer register: on Zen 4, integer loads have a separate port, and
    // vector loads are the bottleneck (1.10x faster from L1, 1.04x in a layer).
    static Vec broadcast(const float* p) {
        int bits;
        std::memcpy(&bits, p, 4);
        __m512i b;
        __asm__("vpbroadcastd %1, %0" : "=v"(b) : "r"(bits));
        return {_mm512_castsi512_ps(b)};
    }
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec load(const uint16_t* p) {
        __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(uint16_t* p) const {
        __m512i u = _mm512_castps_si512(v);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        r = _mm512_mask_mov_epi32(_mm512_srli_epi32(r, 16), nan, _mm512_set1_epi32(0x7fc0));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
    }
};
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }

inline void transpose(Vec (&t)[16]) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(t[i].v, t[i + 1].v);
        a[i + 1] = _mm512_unpackhi_ps(t[i].v, t[i + 1].v);
    }
    for (int i = 0; i < 16; i += 4) {
        auto d = [&](int k) { return _mm512_castps_pd(a[i + k]); };
        b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(0), d(2)));
        b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(0), d(2)));
        b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(1), d(3)));
        b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(1), d(3)));
    }
    for (int j = 0; j < 4; ++j) {  // 4x4 transpose of the 128-bit lanes of b[j], b[j+4], ...
        __m512 p = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88),
               q = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
        __m512 r = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88),
               s = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
        t[j] = {_mm512_shuffle_f32x4(p, r, 0x88)};
        t[j + 4] = {_mm512_shuffle_f32x4(q, s, 0x88)};
        t[j + 8] = {_mm512_shuffle_f32x4(p, r, 0xdd)};
        t[j + 12] = {_mm512_shuffle_f32x4(q, s, 0xdd)};
    }
}

inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }

// Adds the sum of the lanes of t[i] to out[i]. Three folds put the four sums side by side in every
// 128-bit lane. Each fold has one shuffle, one blend and one add, because the shuffle port is the
// bottleneck.
inline void add_sums(const Vec (&t)[4], float* out) {
    auto pairs = [](Vec a, Vec b) {
        return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a.v, b.v),
                             _mm512_shuffle_ps(a.v, b.v, 0x4e));
    };
    const __m512i swap =
        _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    __m512 p = pairs(t[0], t[2]), q = pairs(t[1], t[3]);
    __m512 s =
        _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, p, q), _mm512_permutex2var_ps(p, swap, q));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    __m128 f = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), f));
}

}  // namespace
}  // namespace sparsewright
