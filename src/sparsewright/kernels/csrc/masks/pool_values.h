// What the loops over blocks compute: the value of a score, and how two values are combined. Every
// struct here provides
//   Bits: the type of a stored entry          Value: the type of a result
//   value(Bits): the value of an entry        combine(Value, Value)
//   Out, out(Value): the final result
#pragma once

#include <cstdint>

#include "masks/formats.h"
#include "masks/keys.h"

namespace sparsewright {
namespace {

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
