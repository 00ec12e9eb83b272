// Scores as integers that can be compared. With s the bits of a float as a signed integer, the key
//   key = s & max                      (magnitude)
//   key = s < 0 ? -(s & max) : s       (signed)
// increases with the value, is equal for -0 and +0, and is computed in the same way for every float
// format of one width. It does not depend on the CPU's flush-to-zero mode. A score is NaN if
// (s & max) > inf, where inf has the bits of +inf in the format.
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

// Rows up to this length fit the first-level cache and are selected by repeated scans.
inline constexpr int64_t short_row = 4096;

}  // namespace sparsewright
