// prune is the plain loop, which the compiler vectorizes to within 10% of hand-written intrinsics.
#include <immintrin.h>

#include "masks/loops.h"

namespace sparsewright {
namespace {

// Lane operations that depend on the element width; gt packs its result to one bit per lane.
template <class T>
struct Lanes;

template <>
struct Lanes<int16_t> {
    static __m256i set(int16_t v) { return _mm256_set1_epi16(v); }
    static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
    static __m256i gt(__m256i a, __m256i b) { return _mm256_cmpgt_epi16(a, b); }
    static uint64_t pack(__m256i flags) {
        const __m128i bytes =
            _mm_packs_epi16(_mm256_castsi256_si128(flags), _mm256_extracti128_si256(flags, 1));
        return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
    }
};
template <>
struct Lanes<int32_t> {
    static __m256i set(int32_t v) { return _mm256_set1_epi32(v); }
    static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
    static __m256i gt(__m256i a, __m256i b) { return _mm256_cmpgt_epi32(a, b); }
    static uint64_t pack(__m256i flags) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(flags)));
    }
};
template <>
struct Lanes<int64_t> {
    static __m256i set(int64_t v) { return _mm256_set1_epi64x(v); }
    static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi64(a, b); }
    static __m256i gt(__m256i a, __m256i b) { return _mm256_cmpgt_epi64(a, b); }
    static uint64_t pack(__m256i flags) {
        return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(flags)));
    }
};

struct Block {
    static constexpr int vector_bytes = 32;

    static uint64_t bits_of_32(const uint8_t* p) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i zero = _mm256_cmpeq_epi8(v, _mm256_setzero_si256());
        return static_cast<uint32_t>(~_mm256_movemask_epi8(zero));
    }
    static uint64_t bits_of_bytes(const uint8_t* p) {
        return bits_of_32(p) | bits_of_32(p + 32) << 32;
    }
    static void bytes_of_bits(uint64_t bits, uint8_t* p) {
        for (int i = 0; i < 8; ++i) {
            const uint64_t eight = _pdep_u64(bits >> (8 * i), 0x0101010101010101u);
            __builtin_memcpy(p + 8 * i, &eight, 8);
        }
    }
    static uint64_t lowest(uint64_t bits, int64_t count) {
        return _pdep_u64((uint64_t{1} << count) - 1, bits);
    }

    template <class T, bool Magnitude>
    struct Keys {
        using L = Lanes<T>;
        static constexpr int vectors = 2 * sizeof(T), lanes = 32 / sizeof(T);
        const T* p;

        // Sixteen registers cannot hold a block, so each comparison loads the keys again from L1.
        void load(const T* start) { p = start; }
        __m256i size(int i) const {
            const auto* from = reinterpret_cast<const __m256i*>(p + i * lanes);
            return _mm256_and_si256(_mm256_loadu_si256(from), L::set(max_key<T>));
        }
        __m256i key(int i) const {
            if (Magnitude) return size(i);
            const auto* from = reinterpret_cast<const __m256i*>(p + i * lanes);
            const __m256i sign = L::gt(_mm256_setzero_si256(), _mm256_loadu_si256(from));
            return L::sub(_mm256_xor_si256(size(i), sign), sign);
        }
        uint64_t above(T bound) const {
            uint64_t bits = 0;
            for (int i = 0; i < vectors; ++i)
                bits |= L::pack(L::gt(key(i), L::set(bound))) << (i * lanes);
            return bits;
        }
        uint64_t larger(T bound) const {
            uint64_t bits = 0;
            for (int i = 0; i < vectors; ++i)
                bits |= L::pack(L::gt(size(i), L::set(bound))) << (i * lanes);
            return bits;
        }
    };
};

}  // namespace
}  // namespace sparsewright

#include "masks/make_loops.h"

namespace sparsewright {

const MaskLoops& mask_loops(Avx2) {
    static constexpr MaskLoops loops =
        make_mask_loops(prune_loop<uint16_t>, prune_loop<uint32_t>, prune_loop<uint64_t>);
    return loops;
}

}  // namespace sparsewright
