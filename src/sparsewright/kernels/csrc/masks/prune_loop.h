// The plain loop. Each translation unit compiles it for its instruction set. It is in an anonymous
// namespace, so that the linker never shares code between units.
#pragma once

#include <cstdint>

namespace sparsewright {
namespace {

template <class T>
void prune_loop(void* data, const uint8_t* mask, int64_t n) {
    T* x = static_cast<T*>(data);
    for (int64_t i = 0; i < n; ++i) x[i] &= static_cast<T>(-static_cast<T>(mask[i] != 0));
}

}  // namespace
}  // namespace sparsewright
