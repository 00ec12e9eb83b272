#define SPARSEWRIGHT_ISA portable
#define SPARSEWRIGHT_NAME "portable"
#include "kernels.inl"

namespace sparsewright {
const Kernels kPortable = SPARSEWRIGHT_KERNELS(32, 32);
}

