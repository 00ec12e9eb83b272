// Scores as integers to compare: with s the bits of a float as a signed integer,
//   key = s & max                      (magnitude)
//   key = s < 0 ? -(s & max) : s       (signed)
// rises with the value, has -0 == +0, is the same for every float format of one width, and does
// not depend on the CPU's flush-to-zero mode. NaN is (s & max) > inf, the format's bits of +inf.
#pragma once

#include <cstdint>
#include <limits>

namespace sparsewright {

template <class T>
inline constexpr T max_key = std::numeric_limits<T>::max();
template <class T>
inline constexpr T min_key = -std::numeric_limits<T>::max();

template <bool Magnitude, class T>
[[gnu::always_inline]] inline T key_of(T bits) {
    const T size = static_cast<T>(bits & max_key<T>);
    return Magnitude || bits >= 0 ? size : static_cast<T>(-size);
}

// Up to here a row is selected where it lies in the first-level cache, by repeated scans.
inline constexpr int64_t short_row = 4096;

}  // namespace sparsewright
