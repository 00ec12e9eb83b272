#if defined(__x86_64__)
#define SPARSEWRIGHT_ISA avx2
#define SPARSEWRIGHT_NAME "avx2"
#include "kernels.inl"

namespace sparsewright {
const Kernels kAvx2 = SPARSEWRIGHT_KERNELS(64, 64);
}
#endif
