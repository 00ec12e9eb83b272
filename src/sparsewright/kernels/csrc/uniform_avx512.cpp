// Its 64-bit products (AVX-512 DQ) are what the loop waits for; AVX2 has none.
#include "uniform.h"

#if SW_X86
#include "uniform_loop.h"

namespace sw {

const UniformFn uniform_avx512 = uniform_loop;

}  // namespace sw
#endif
