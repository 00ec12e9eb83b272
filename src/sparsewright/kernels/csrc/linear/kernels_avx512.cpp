#if defined(__x86_64__)
#define SPARSEWRIGHT_ISA avx512
#define SPARSEWRIGHT_NAME "avx512"
#include "kernels.inl"

namespace sparsewright {
const Kernels kAvx512 = SPARSEWRIGHT_KERNELS(64, 64);
}
#endif
