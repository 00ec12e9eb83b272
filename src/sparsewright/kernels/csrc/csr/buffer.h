#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace sparsewright {

// Uninitialized floats, aligned to a cache line.
struct AlignedDelete {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<float[], AlignedDelete>;

inline Buffer make_buffer(size_t size) {
    return Buffer(
        static_cast<float*>(::operator new[](size * sizeof(float) + 64, std::align_val_t(64))));
}

}  // namespace sparsewright
