// One vector type per instruction set, chosen by the flags a file is compiled with.
// Every kernel is written once against Vec. The namespace differs per instruction set, so the
// linker never merges code compiled with different flags.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bf16.h"
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef SPARSEWRIGHT_ISA
#error "define SPARSEWRIGHT_ISA before including vec.h"
#endif

namespace sparsewright::SPARSEWRIGHT_ISA {

#if defined(__AVX512F__)

struct Vec {
  static constexpr int kWidth = 16;
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec broadcast(float f) { return {_mm512_set1_ps(f)}; }
  // Through an integer register: integer loads have a port of their own on Zen 4, where the vector
  // loads are the bottleneck (measured 1.10x from L1, 1.04x in a layer).
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
    __m512 p = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88), q = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    __m512 r = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88), s = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
    t[j] = {_mm512_shuffle_f32x4(p, r, 0x88)};
    t[j + 4] = {_mm512_shuffle_f32x4(q, s, 0x88)};
    t[j + 8] = {_mm512_shuffle_f32x4(p, r, 0xdd)};
    t[j + 12] = {_mm512_shuffle_f32x4(q, s, 0xdd)};
  }
}

inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }

// out[i] += the sum of the lanes of t[i]. Three folds (one shuffle, one blend, one add each, since
// the shuffle port is the scarce one) put the four sums side by side in every 128-bit lane.
inline void add_sums(const Vec (&t)[4], float* out) {
  auto pairs = [](Vec a, Vec b) {
    return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a.v, b.v), _mm512_shuffle_ps(a.v, b.v, 0x4e));
  };
  const __m512i swap = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  __m512 p = pairs(t[0], t[2]), q = pairs(t[1], t[3]);
  __m512 s = _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, p, q), _mm512_permutex2var_ps(p, swap, q));
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  __m128 f = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), f));
}

#elif defined(__AVX2__)

struct Vec {
  static constexpr int kWidth = 8;
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
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
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

#else

// Four lanes by the vector extension of GCC and clang: SSE2, NEON, or what else the target has.
// (An array of four floats and loops was 5x slower.)
struct Vec {
  static constexpr int kWidth = 4;
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
    return {Lanes{bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]), bf16_to_float(p[3])}};
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

#endif

constexpr int kWidth = Vec::kWidth;

}  // namespace sparsewright
