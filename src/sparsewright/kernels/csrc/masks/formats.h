// The floating-point formats of scores, for loops that compute with values instead of keys.
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// `Bits` are signed, as in keys.h.
struct Float16 {
    using Bits = int16_t;
    static constexpr Bits inf = 0x7c00;
    static double value(Bits bits) {
        const int32_t size = bits & 0x7fff;
        const int32_t rebiased = (size << 13) + ((size < inf ? 112 : 224) << 23);
        // Subnormal numbers are converted as integers, so flush-to-zero modes do not matter.
        const float scaled = static_cast<float>(size) * 0x1p-24f;
        const float result = size < 0x400 ? scaled : bit_cast<float>(rebiased);
        return bits < 0 ? -result : result;
    }
};
struct BFloat16 {
    using Bits = int16_t;
    static constexpr Bits inf = 0x7f80;
    static double value(Bits bits) {
        return bit_cast<float>(static_cast<uint32_t>(static_cast<uint16_t>(bits)) << 16);
    }
};
struct Float32 {
    using Bits = int32_t;
    static constexpr Bits inf = 0x7f800000;
    static double value(Bits bits) { return bit_cast<float>(bits); }
};
struct Float64 {
    using Bits = int64_t;
    static constexpr Bits inf = 0x7ff0000000000000;
    static double value(Bits bits) { return bit_cast<double>(bits); }
};

}  // namespace
}  // namespace sparsewright
