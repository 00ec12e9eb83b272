// prune does a masked zeroing load and a full store. A masked store of zeros is equally fast.
// Skipping stores that change nothing is never faster and up to 40% slower.
#include <immintrin.h>

#include "masks/loops.h"
#include "masks/prune_loop.h"

namespace sparsewright {
namespace {

// Lane operations that depend on the element width.
template <class T>
struct Lanes;

template <>
struct Lanes<int16_t> {
    static __m512i set(int16_t v) { return _mm512_set1_epi16(v); }
    static __m512i sign(__m512i v) { return _mm512_srai_epi16(v, 15); }
    static __m512i sub(__m512i a, __m512i b) { return _mm512_sub_epi16(a, b); }
    static uint64_t gt(__m512i a, __m512i b) { return _mm512_cmpgt_epi16_mask(a, b); }
};
template <>
struct Lanes<int32_t> {
    static __m512i set(int32_t v) { return _mm512_set1_epi32(v); }
    static __m512i sign(__m512i v) { return _mm512_srai_epi32(v, 31); }
    static __m512i sub(__m512i a, __m512i b) { return _mm512_sub_epi32(a, b); }
    static uint64_t gt(__m512i a, __m512i b) { return _mm512_cmpgt_epi32_mask(a, b); }
};
template <>
struct Lanes<int64_t> {
    static __m512i set(int64_t v) { return _mm512_set1_epi64(v); }
    static __m512i sign(__m512i v) { return _mm512_srai_epi64(v, 63); }
    static __m512i sub(__m512i a, __m512i b) { return _mm512_sub_epi64(a, b); }
    static uint64_t gt(__m512i a, __m512i b) { return _mm512_cmpgt_epi64_mask(a, b); }
};

struct Block {
    static constexpr int vector_bytes = 64;

    static uint64_t bits_of_bytes(const uint8_t* p) {
        const __m512i v = _mm512_loadu_si512(p);
        return _mm512_test_epi8_mask(v, v);
    }
    static void bytes_of_bits(uint64_t bits, uint8_t* p) {
        _mm512_storeu_si512(p, _mm512_maskz_set1_epi8(bits, 1));
    }
    static uint64_t lowest(uint64_t bits, int64_t count) {
        return _pdep_u64((uint64_t{1} << count) - 1, bits);
    }

    template <class T, bool Magnitude>
    struct Keys {
        using L = Lanes<T>;
        static constexpr int vectors = sizeof(T), lanes = 64 / sizeof(T);
        __m512i keys[vectors], sizes[vectors];

        void load(const T* p) {
            for (int i = 0; i < vectors; ++i) {
                const __m512i bits = _mm512_loadu_si512(p + i * lanes);
                sizes[i] = _mm512_and_si512(bits, L::set(max_key<T>));
                const __m512i sign = L::sign(bits);
                keys[i] = Magnitude ? sizes[i] : L::sub(_mm512_xor_si512(sizes[i], sign), sign);
            }
        }
        static uint64_t greater(const __m512i* v, T bound) {
            uint64_t bits = 0;
            for (int i = 0; i < vectors; ++i) bits |= L::gt(v[i], L::set(bound)) << (i * lanes);
            return bits;
        }
        uint64_t above(T bound) const { return greater(keys, bound); }
        uint64_t larger(T size) const { return greater(sizes, size); }
    };
};

void prune16(void* data, const uint8_t* mask, int64_t n) {
    auto* x = static_cast<uint16_t*>(data);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i m = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + i));
        const __mmask32 keep = _mm256_test_epi8_mask(m, m);
        _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi16(keep, x + i));
    }
    prune_loop<uint16_t>(x + i, mask + i, n - i);
}

void prune32(void* data, const uint8_t* mask, int64_t n) {
    auto* x = static_cast<uint32_t*>(data);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m128i m = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask + i));
        const __mmask16 keep = _mm_test_epi8_mask(m, m);
        _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi32(keep, x + i));
    }
    prune_loop<uint32_t>(x + i, mask + i, n - i);
}

void prune64(void* data, const uint8_t* mask, int64_t n) {
    auto* x = static_cast<uint64_t*>(data);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i m = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + i));
        const __mmask8 keep = static_cast<__mmask8>(_mm_test_epi8_mask(m, m));
        _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi64(keep, x + i));
    }
    prune_loop<uint64_t>(x + i, mask + i, n - i);
}

}  // namespace
}  // namespace sparsewright

#include "masks/make_loops.h"

namespace sparsewright {

const MaskLoops& mask_loops(Avx512) {
    static constexpr MaskLoops loops = make_mask_loops(prune16, prune32, prune64);
    return loops;
}

}  // namespace sparsewright
