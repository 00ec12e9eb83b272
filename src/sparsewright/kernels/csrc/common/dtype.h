// The dtypes that kernels read and write.
#pragma once

namespace sparsewright {

enum class Dtype { boolean, uint16, int32, int64, float16, bfloat16, float32, float64, other };

// Returns the bytes of a floating-point entry, or 0 if the dtype is not floating point.
inline int float_bytes(Dtype dtype) {
    switch (dtype) {
        case Dtype::float16:
        case Dtype::bfloat16:
            return 2;
        case Dtype::float32:
            return 4;
        case Dtype::float64:
            return 8;
        default:
            return 0;
    }
}

}  // namespace sparsewright
