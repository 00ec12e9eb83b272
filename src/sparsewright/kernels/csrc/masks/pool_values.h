// What the loops over blocks compute: the value of a score, and how two values are combined. Every
// struct here provides
//   Bits: the type of a stored entry          Value: the type of a result
//   value(Bits): the value of an entry        combine(Value, Value)
//   Out, out(Value): the final result
#pragma once

#include <cstdint>
#include <cstring>

#include "masks/keys.h"

namespace sparsewright {
namespace {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Floating-point formats. `Bits` are signed, as in keys.h.
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

template <class Format>
struct Sum {
    using Bits = typename Format::Bits;
    using Value = double;
    using Out = double;
    static double value(Bits bits) { return Format::value(bits); }
    static double combine(double a, double b) { return a + b; }
    static double out(double value) { return value; }
};

template <class Format>
struct Squares : Sum<Format> {
    static double value(typename Format::Bits bits) {
        const double score = Format::value(bits);
        return score * score;
    }
};

// Compares keys, with NaN above all others.
template <class Format>
struct Max {
    using Bits = typename Format::Bits;
    using Value = Bits;
    using Out = double;
    static Bits value(Bits bits) {
        const Bits size = key_of<true>(bits);
        return size > Format::inf ? size : key_of<false>(bits);
    }
    static Bits combine(Bits a, Bits b) { return a > b ? a : b; }
    static double out(Bits key) {
        const double size = Format::value(key < 0 ? static_cast<Bits>(-key) : key);
        return key < 0 ? -size : size;
    }
};

struct Any {
    using Bits = uint8_t;
    using Value = uint8_t;
    using Out = uint8_t;
    static uint8_t value(uint8_t flag) { return flag; }
    static uint8_t combine(uint8_t a, uint8_t b) { return a | b; }
    static uint8_t out(uint8_t flags) { return flags != 0; }
};

}  // namespace
}  // namespace sparsewright
